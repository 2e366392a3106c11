"""A training's config -> its parts and evaluations, all checked before anything is computed or written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer

from experiments.runs.run_evaluation import check_outputs, check_planned_lengths, compose_evaluation
from experiments.schema import ModelConfig, as_recorded
from experiments.setup.build import TrainingParts, backbone_names, build_model
from experiments.setup.build_data import TrainingRecords, build_records, build_samples, read_records
from experiments.setup.choices import with_choices
from experiments.setup.evaluation_plan import Plan, plan
from experiments.setup.longer_training import STEPS, trains_longer
from experiments.train import TrainConfig, check_config
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.transforms.image_processors import load_image_processor
from flamingo.evaluation.search_objective import check_objective
from flamingo.inference.features_folder import check_folder, features_identity
from flamingo.model import BACKBONES
from flamingo.model.checkpoints import check_unchanged
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.problems import Problems
from flamingo.utils.run_folder import STATES, WRITING, Run, RunFiles

_TRAINED = ("state", "history.jsonl", "checkpoint", "wandb", "skipped.json")
#: Results of the evaluations that follow, which belong to the same weights.
_EVALUATED = ("scores.json", "differences.json", "predictions.jsonl", "pictures")
#: The files of a training in its folder.
FILES = RunFiles(
    results=_TRAINED + _EVALUATED,
    saved=STATES + ("checkpoint", "predictions.jsonl", "scores.json"),
    descriptions=("overrides.yaml", "failure.txt", "evaluate-*.yaml", "images-*.json", "*-steps"),
    may_change=("variant", "evaluate", "objective", "features") + WRITING,
    may_grow=(STEPS,),
)
#: Documents of each data set whose last answers are logged during training, and the tokens of an answer.
NUM_SAMPLES, SAMPLE_TOKENS = 4, 40


@dataclass
class Prepared:
    """A checked training."""

    #: The config, with a value for each open key.
    config: TrainConfig
    #: The evaluations that follow.
    plans: list[Plan]
    #: None for a finished run that is not overwritten.
    parts: TrainingParts | None
    #: Whether a finished run trains longer.
    longer: bool


def prepare(config: TrainConfig, run: Run) -> Prepared:
    """Returns the parts and the evaluations of a training.

    Args:
        config: The training.
        run: The folder of the run. It gets the config to record. Nothing is written.

    Raises:
        UserError: With all problems of the keys, files, backbones, splits, lengths and evaluations.
    """
    problems = Problems()
    config = with_choices(config, run, problems)
    run.config = as_recorded(config)
    with problems.collected():
        check_config(config)
    with problems.collected():
        run.check()
    plans = _plans(config, run.output, problems)
    is_finished = (run.output / "checkpoint").exists() and not config.overwrite
    longer = False
    with problems.collected():
        longer = is_finished and trains_longer(run, config.training.steps)
    parts = None
    if longer or not is_finished:
        with problems.collected():
            check_objective(config.objective, [(plan.task, plan.config) for plan in plans])
        parts = _parts(config, plans, problems)
    problems.report()
    return Prepared(config, plans, parts, longer)


def _plans(config: TrainConfig, output: Path, problems: Problems) -> list[Plan]:
    plans: list[Plan] = []
    for entry in config.evaluate:
        with problems.collected():
            plans.append(plan(compose_evaluation(entry, output, config.device), open_images=True))
    with problems.collected():
        check_outputs(plans, output)
    return plans


def _parts(config: TrainConfig, plans: Sequence[Plan], problems: Problems) -> TrainingParts | None:
    """Returns the parts; None if there is a problem."""
    model, processor = _model(config, problems)
    if model is None or processor is None:
        with problems.collected():
            read_records(config.data, open_images=True)
        return None
    records: TrainingRecords | None = None
    samples: list[Document] = []
    with problems.collected():
        records = build_records(config.data, processor, open_images=True)
        max_length = processor.tokenizer.model_max_length - SAMPLE_TOKENS
        samples = build_samples(config.data, records, NUM_SAMPLES, processor, max_length)
    with problems.collected("features.folder"):
        if records is not None and config.features.folder is not None:
            check_folder(Path(config.features.folder), features_identity(model, processor))
    for planned in plans:
        with problems.collected():
            check_planned_lengths(planned, processor)
    return TrainingParts(model, processor, records, samples)


def _model(
    config: TrainConfig, problems: Problems
) -> tuple[FlamingoForConditionalGeneration | None, FlamingoProcessor | None]:
    """Returns the model and its processor; None if there is a problem."""
    before = len(problems.sentences)
    _check_backbones(config.model, problems)
    if len(problems.sentences) > before:
        return None, None
    torch.manual_seed(config.training.seed)
    with problems.collected():
        model, processor = build_model(config.model, config.dtype)
        make_optimizer(model, config.optimizer)  # refuses a model without trained parameters
        check_saving(model, config.include_backbones)
        return model, processor
    return None, None


def _check_backbones(config: ModelConfig, problems: Problems) -> None:
    """Reads the configs, tokenizer and image processor of both backbones, before the weights of either."""
    names = backbone_names(config)
    if "vision" in names:
        with problems.collected():
            from_pretrained(AutoConfig, names["vision"], "model.vision")
            load_image_processor(names["vision"], config.image_size)
    if "language" in names:
        with problems.collected():
            from_pretrained(AutoConfig, names["language"], "model.language")
            from_pretrained(AutoTokenizer, names["language"], "model.language")


def check_saving(model: FlamingoForConditionalGeneration, include_backbones: bool) -> None:
    """Checks that the checkpoint can be saved after the training, which changes no frozen backbone.

    Raises:
        UserError: If it cannot.
    """
    frozen = {part: getattr(model, part) for part in BACKBONES}
    try:
        if not include_backbones:
            check_unchanged(model.config, frozen)
    except UserError as error:
        raise UserError(f"include_backbones must be true: {error}") from error
