"""Trains a Flamingo: the connector, the gated blocks and the new tokens between two frozen backbones.

python -m experiments.train experiment=demo                     a few minutes on 2 cores
python -m experiments.train experiment=demo debug=quick         a few steps, to see whether all fits together
python -m experiments.train -m experiment=synthetic model.fusion.every=1,2,4 seed=0,1,2      a sweep of nine runs

Leaves in `output`: config.yaml, overrides.yaml, history.jsonl, state/ (to resume from) and, when done, checkpoint/;
of a sweep each run in a folder below it. A run may be evaluated as soon as it is trained: see `evaluate`.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from accelerate import PartialState

from experiments import run_evaluation
from experiments.build import TrainingParts, add_features, backbone_names, build_training
from experiments.build_data import build_data_sets, images_of
from experiments.command import Job, command
from experiments.schema import (
    JSON,
    DataConfig,
    Entry,
    ModelConfig,
    WandbConfig,
    as_recorded,
    check_documents,
)
from flamingo.data.data_checksums import data_checksums
from flamingo.data.sources import list_split
from flamingo.evaluation.search_objective import ObjectiveConfig, check_objective, objective
from flamingo.inference import FeaturesConfig
from flamingo.model import BACKBONES
from flamingo.report import VariantConfig
from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks, fusion_measures
from flamingo.training.loop import train
from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import check_warmup
from flamingo.utils.checks import one_of, seed, whole
from flamingo.utils.checksums import digest_of
from flamingo.utils.devices import DTYPES, check_device, use_device
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
    descriptions=("overrides.yaml", "failure.txt", "evaluate-*.yaml", "images-*.json"),
    may_change=("variant", "evaluate", "objective", "features") + WRITING,
)
#: Documents of each data set whose last answers are logged while training, and the tokens of an answer.
_NUM_SAMPLES, _SAMPLE_TOKENS = 4, 40


@dataclass(kw_only=True)
class TrainConfig:
    """Everything that a training run is made of."""

    output: str
    overwrite: bool = False
    #: Of all random numbers: weights, documents, their order.
    seed: int = 0
    #: Processes that make and read documents; 0: the training process does.
    num_workers: int = 0
    #: cpu, mps, cuda or cuda:NUMBER; null: CUDA, else MPS, else the CPU.
    device: str | None = None
    #: Of the frozen backbones: float32, bfloat16, float16, or auto, as they were saved.
    dtype: str = "auto"
    #: Whether the checkpoint holds the frozen backbones, or only names them.
    include_backbones: bool = False
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    #: Set by the group optimizer.
    optimizer: OptimizerConfig
    training: TrainingConfig
    wandb: WandbConfig = field(default_factory=WandbConfig)
    variant: VariantConfig = field(default_factory=VariantConfig)
    #: Evaluations of the trained run: each has `kind`, an option of conf/task, and keys of the evaluation's config.
    evaluate: list[Entry] = field(default_factory=list)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        seed("seed", self.seed)
        whole("num_workers", self.num_workers, least=0)
        check_device("device", self.device)
        one_of("dtype", self.dtype, DTYPES)


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
        plans = [run_evaluation.plan(run_evaluation.compose_evaluation(entry, output, config.device)) for entry in config.evaluate]
        run_evaluation.check_outputs(plans, output)
        if (output / "checkpoint").exists() and not config.overwrite:
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
            for plan in plans:
                run_evaluation.check_planned_lengths(plan, parts.processor)
            train_model(parts, config, run, overrides)
        for plan in plans:
            run_evaluation.carry_out(plan)
        return objective(output, config.objective)


def check_config(config: TrainConfig) -> None:
    """Raise UserError, naming the key, for values that contradict each other."""
    check_warmup(config.optimizer, config.training.steps)
    changed = _changed_backbones(config.model)
    if changed and not config.include_backbones:
        names = " and ".join(changed)
        raise UserError(f"the {names} changes, so the checkpoint has to hold it: say include_backbones=true")
    if config.features.folder and "vision_model" in config.model.trainable:
        raise UserError("features.folder keeps what a frozen encoder sees, but model.trainable has the vision_model")
    check_documents(config.data, config.features.folder)


def _changed_backbones(config: ModelConfig) -> list[str]:
    changed = [str(part) for part in BACKBONES if part in config.trainable]
    if config.from_scratch and "language_model" not in changed:
        changed.append("language_model")
    return changed


def check_data(config: DataConfig, run: Run) -> None:
    """Raise UserError, with what differs, where captioned images are not those that a run was trained on.

    No picture is opened, and no model is loaded.
    """
    if config.of_records():
        assert config.root is not None
        listed = list_split(config.root, config.images, config.format, config.split)
        run.check_contents({"data": data_checksums(listed)})


def contents(parts: TrainingParts, config: ModelConfig) -> JSON:
    """Returns checksums of what the config only names."""
    checksums: JSON = {key: model_contents(name) for key, name in backbone_names(config).items()}
    if config.init_from is not None:
        checksums["init_from"] = model_contents(config.init_from)
    if parts.features is not None:  # the folder of features decides no result
        checksums["features"] = str(parts.features.dtype)
    if parts.records is not None:
        checksums["data"] = data_checksums(parts.records.training.listed)
        checksums["images"] = digest_of(record.id for record in parts.records.training.records)
    return checksums


def train_model(parts: TrainingParts, config: TrainConfig, run: Run, overrides: Sequence[str]) -> None:
    """Train the parts, and save the checkpoint."""
    run.begin(contents(parts, config.model))
    main_process = PartialState().is_main_process
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


@command("train", TrainConfig)
def main(job: Job[TrainConfig]) -> float:
    with failure_recorded(Run(job.output, {}, _FILES)):
        config = job.load()
    return run_training(config, job.output, job.overrides)


if __name__ == "__main__":
    main()
