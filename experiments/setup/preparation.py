"""A training's config -> its parts and evaluations, all checked before anything is computed or written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.runs.run_evaluation import check_outputs, compose_evaluation, with_known_lengths
from experiments.schema import as_recorded
from experiments.setup.build import TrainingParts
from experiments.setup.build_data import TrainingRecords, build_records, build_samples, check_records
from experiments.setup.checked_model import checked_model
from experiments.setup.choices import with_choices
from experiments.setup.evaluation_plan import Plan, plan
from experiments.setup.longer_training import STEPS, trains_longer
from experiments.setup.streamed_data import check_streamed, elastic_keys
from experiments.train import TrainConfig, check_config
from flamingo import Document
from flamingo.evaluation.search_objective import check_objective
from flamingo.inference.features_folder import check_folder, features_identity
from flamingo.utils.problems import Problems
from flamingo.utils.run_folder import STATES, WRITING, Run, RunFiles

_TRAINED = ("state", "history.jsonl", "checkpoint", "wandb", "tensorboard", "skipped.json")
#: Results of the evaluations that follow, which belong to the same weights.
_EVALUATED = ("scores.json", "differences.json", "in_context.json", "predictions.jsonl", "pictures")
#: The files of a training in its folder.
FILES = RunFiles(
    results=_TRAINED + _EVALUATED,
    saved=STATES + ("checkpoint", "predictions.jsonl", "scores.json"),
    descriptions=("overrides.yaml", "failure.txt", "evaluate-*.yaml", "images-*.json", "*-steps"),
    may_change=("variant", "evaluate", "objective", "features", "parallel", "training.checkpointing") + WRITING,
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
    run.files = replace(run.files, may_change=run.files.may_change + elastic_keys(config.data))
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
    model, processor = checked_model(config, problems)
    if processor is None:
        check_records(config.data, problems)
        return None
    records: TrainingRecords | None = None
    samples: list[Document] = []
    with problems.collected():
        records = build_records(config.data, processor)
        max_length = processor.tokenizer.model_max_length - SAMPLE_TOKENS
        samples = build_samples(config.data, records, NUM_SAMPLES, processor, max_length)
    with problems.collected():
        check_streamed(config, processor)
    for planned in plans:
        with problems.collected():
            with_known_lengths(planned, processor)
    if model is None:
        return None
    with problems.collected("features.folder"):
        if records is not None and config.features.folder is not None:
            check_folder(Path(config.features.folder), features_identity(model, processor))
    return TrainingParts(model, processor, records, samples)
