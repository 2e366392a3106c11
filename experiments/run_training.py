"""A training run: checks, training, the evaluations that follow, and their objective."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from accelerate import PartialState

from experiments import run_evaluation
from experiments.build import TrainingParts, add_features, backbone_names, build_training
from experiments.build_data import build_data_sets, images_of
from experiments.command import Job
from experiments.init_from import checkpoint_folder
from experiments.longer_training import STEPS, keep_finished, trains_longer
from experiments.schema import (
    JSON,
    DataConfig,
    ModelConfig,
    as_recorded,
)
from experiments.train import TrainConfig, check_config
from flamingo import FlamingoForConditionalGeneration
from flamingo.data.data_checksums import data_checksums
from flamingo.data.sources import list_split
from flamingo.evaluation.search_objective import check_objective, objective
from flamingo.model import BACKBONES
from flamingo.model.checkpoints import check_unchanged
from flamingo.training.callbacks import Callbacks, fusion_measures
from flamingo.training.loop import train
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.checksums import digest_of
from flamingo.utils.devices import use_device
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.memory import keep_memory, out_of_memory
from flamingo.utils.run_folder import STATES, WRITING, Run, RunFiles, failure_recorded, model_contents, run_folder

log = logging.getLogger(__name__)

_TRAINED = ("state", "history.jsonl", "checkpoint", "wandb", "skipped.json")
#: Results of the evaluations that follow: they belong to the same weights.
_EVALUATED = ("scores.json", "predictions.jsonl", "pictures")
_FILES = RunFiles(
    results=_TRAINED + _EVALUATED,
    saved=STATES + ("checkpoint",),
    descriptions=("overrides.yaml", "failure.txt", "evaluate-*.yaml", "images-*.json", "*-steps"),
    may_change=("variant", "evaluate", "objective", "features") + WRITING,
    may_grow=(STEPS,),
)
#: Documents of each data set whose last answers are logged while training, and the tokens of an answer.
_NUM_SAMPLES, _SAMPLE_TOKENS = 4, 40


def run_training(config: TrainConfig, output: Path, overrides: Sequence[str] = ()) -> float:
    """Trains and evaluates; returns the objective.

    A run that was stopped continues. Everything is checked before anything is removed or computed.

    Args:
        config: The run.
        output: Its folder.
        overrides: The overrides of the command line or of a sweep, which are recorded.

    Raises:
        UserError: For whatever a user can mend.
    """
    use_device(config.device)
    with run_folder(output, as_recorded(config), _FILES) as run, failure_recorded(run):
        check_config(config)
        evaluations = [run_evaluation.compose_evaluation(entry, output, config.device) for entry in config.evaluate]
        plans = [run_evaluation.plan(evaluation) for evaluation in evaluations]
        run_evaluation.check_outputs(plans, output)
        is_finished = (output / "checkpoint").exists() and not config.overwrite
        longer = is_finished and trains_longer(run, config.training.steps)
        if is_finished and not longer:
            check_data(config.data, run)
            log.info("%s is trained already; overwrite=true trains it again", output)
        else:
            check_objective(config.objective, [(plan.task, plan.config) for plan in plans])
            parts = build_training(
                config.model,
                config.dtype,
                config.data,
                config.features,
                config.training.seed,
                _NUM_SAMPLES,
                _SAMPLE_TOKENS,
            )
            make_optimizer(parts.model, config.optimizer)  # refuses a model of which nothing trains
            check_saving(parts.model, config.include_backbones)
            for plan in plans:
                run_evaluation.check_planned_lengths(plan, parts.processor)
            train_model(parts, config, run, overrides, longer)
        for plan in plans:
            run_evaluation.carry_out(plan)
        return objective(output, config.objective)


def check_saving(model: FlamingoForConditionalGeneration, include_backbones: bool) -> None:
    """Raise UserError where the checkpoint could not be saved after the training, which changes no frozen backbone."""
    frozen = {part: getattr(model, part) for part in BACKBONES}
    try:
        if not include_backbones:
            check_unchanged(model.config, frozen)
    except UserError as error:
        raise UserError(f"include_backbones must be true: {error}") from error


def check_data(config: DataConfig, run: Run) -> None:
    """Raise UserError, with what differs, where captioned images are not those that a run was trained on.

    No picture is opened, and no model is loaded.
    """
    if config.of_records():
        assert config.root is not None
        listed = list_split(config.root, config, config.split)
        run.check_contents({"data": data_checksums(listed)})


def contents(parts: TrainingParts, config: ModelConfig) -> JSON:
    """Returns checksums of what the config only names."""
    checksums: JSON = {key: model_contents(name) for key, name in backbone_names(config).items()}
    if config.init_from is not None:
        checksums["init_from"] = model_contents(checkpoint_folder(config.init_from))
    if parts.features is not None:  # the folder of features decides no result
        checksums["features"] = str(parts.features.dtype)
    if parts.records is not None:
        checksums["data"] = data_checksums(parts.records.training.listed)
        checksums["images"] = digest_of(record.id for record in parts.records.training.records)
    return checksums


def train_model(
    parts: TrainingParts, config: TrainConfig, run: Run, overrides: Sequence[str], longer: bool = False
) -> None:
    """Train the parts, and save the checkpoint; ``longer`` than a run that is finished."""
    checksums = contents(parts, config.model)
    main_process = PartialState().is_main_process
    if longer:
        run.check_contents(checksums)
        if main_process:
            keep_finished(run)
        PartialState().wait_for_everyone()
    run.begin(checksums)
    if main_process:
        write_text(run.output / "overrides.yaml", yaml.safe_dump(list(overrides)))
    model, processor = parts.model, parts.processor
    counts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in model.parameter_counts().items())
    log.info("parameters: %s", counts)
    _compute_features(parts, config.data, run.output)
    data_sets = build_data_sets(
        config.data,
        parts.records,
        processor,
        parts.features,
        config.training.seed,
        config.num_workers,
        model.new_tokens.known_ids,
    )
    keys = [f"data.documents.{name}.batch_size" for name in config.data.documents]
    with _callbacks(parts, config, run) as callbacks, out_of_memory(*keys):
        train(model, data_sets, config.optimizer, config.training, run.output, callbacks)
    if main_process:
        with atomic_folder(run.output / "checkpoint") as folder:
            model.save_pretrained(folder, include_backbones=config.include_backbones)
            processor.save_pretrained(folder)
        log.info("trained: %s", run.output / "checkpoint")


@contextmanager
def _callbacks(parts: TrainingParts, config: TrainConfig, run: Run) -> Iterator[Callbacks]:
    """Yields what a training calls. Records and samples go to wandb, whose run ends with the block."""
    if config.wandb.mode == "disabled":
        yield Callbacks(measures=[fusion_measures], on_save=run.keep)
        return
    # A program may train without wandb.
    from experiments.tracking import Tracker, flatten_record, sampler

    tracker = Tracker(config.wandb, as_recorded(config), run.output, PartialState().is_main_process)
    failed = True
    try:
        yield Callbacks(
            measures=[fusion_measures],
            on_log=lambda values: tracker.log(flatten_record(values), values["step"]),
            on_sample=sampler(parts.samples, parts.model, parts.processor, tracker, _SAMPLE_TOKENS),
            on_save=run.keep,
        )
        failed = False
    finally:
        tracker.finish(failed)


def _compute_features(parts: TrainingParts, config: DataConfig, output: Path) -> None:
    if parts.records is None:
        return
    if PartialState().is_main_process:
        skipped = parts.records.training.skipped | parts.records.samples.skipped
        write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
    if parts.features is not None:
        keep_memory()
        add_features(parts.features, images_of(config, parts.records))


def run_job(job: Job[TrainConfig]) -> float:
    """Trains what the command line asks for."""
    with failure_recorded(Run(job.output, {}, _FILES)):
        config = job.load()
    return run_training(config, job.output, job.overrides)
