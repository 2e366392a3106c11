"""Trains a Flamingo: the connector, the gated blocks and the new tokens between two frozen backbones.

python -m experiments.train experiment=demo                     a few minutes on 2 cores
python -m experiments.train experiment=demo debug=quick         a few steps, to see whether all fits together
python -m experiments.train -m experiment=synthetic model.fusion.every=1,2,4 seed=0,1,2      a sweep of nine runs

Leaves in `output`: config.yaml, overrides.yaml, history.jsonl, state/ (to resume from) and, when done, checkpoint/;
of a sweep each run in a folder below it. A run may be evaluated as soon as it is trained: see `evaluate`.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
import yaml
from accelerate import PartialState
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

from experiments import evaluate
from experiments.build import (
    TrainingParts,
    add_features,
    backbone_names,
    build_data_sets,
    build_training,
    images_of,
    sample_prompt,
)
from experiments.schema import (
    JSON,
    DataConfig,
    Entry,
    ModelConfig,
    WandbConfig,
    as_recorded,
    check_documents,
    command,
    load,
)
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.data_checksums import data_checksums
from flamingo.data.sources import list_split
from flamingo.data.transforms.pictures import open_image
from flamingo.evaluation.search_objective import ObjectiveConfig, check_objective, objective
from flamingo.inference import FeaturesConfig
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model import BACKBONES
from flamingo.report import VariantConfig
from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks, gate_values
from flamingo.training.loop import train
from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import check_warmup
from flamingo.utils.checks import seed, whole
from flamingo.utils.checksums import digest_of
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.processes import keep_memory
from flamingo.utils.run_folder import STATES, WRITING, Run, RunFiles, failure_recorded, model_contents, run_folder

log = logging.getLogger(__name__)

_TRAINED = ("state", "history.jsonl", "checkpoint", "wandb", "skipped.json")
#: Results of the evaluations that follow: they belong to the same weights.
_EVALUATED = ("scores.json", "predictions.jsonl", "pictures")
_KIND = RunFiles(
    results=_TRAINED + _EVALUATED,
    saved=STATES + ("checkpoint",),
    descriptions=("overrides.yaml", "failure.txt", "evaluate-*.yaml", "images-*.json"),
    may_change=("variant", "evaluate", "objective", "features") + WRITING,
)
#: Documents of each data set whose last answers are logged while training, and the tokens of an answer.
_NUM_SAMPLES, _SAMPLE_TOKENS = 4, 40
#: What wandb would else write into the user's home.
_WANDB_FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}


@dataclass
class TrainConfig:
    """Everything that a training run is made of."""

    output: str = MISSING
    overwrite: bool = False
    #: Of all random numbers: weights, documents, their order.
    seed: int = 0
    #: Processes that make and read documents; 0: the training process does.
    num_workers: int = 0
    #: Whether the checkpoint holds the frozen backbones, or only names them.
    include_backbones: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    #: Set by the group optimizer.
    optimizer: OptimizerConfig = MISSING
    training: TrainingConfig = MISSING
    wandb: WandbConfig = field(default_factory=WandbConfig)
    variant: VariantConfig = field(default_factory=VariantConfig)
    #: Evaluations of the trained run: each has `kind`, an option of conf/task, and keys of the evaluation's config.
    evaluate: list[Entry] = field(default_factory=list)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        seed("seed", self.seed)
        whole("num_workers", self.num_workers, least=0)


ConfigStore.instance().store("train_schema", TrainConfig)


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
    with run_folder(output, as_recorded(config), _KIND) as run, failure_recorded(run):
        check_config(config)
        plans = [evaluate.plan(evaluate.compose_evaluation(entry, output)) for entry in config.evaluate]
        evaluate.check_outputs(plans, output)
        if (output / "checkpoint").exists() and not config.overwrite:
            check_data(config.data, run)
            log.info("%s is trained already; overwrite=true trains it again", output)
        else:
            check_objective(config.objective, [(plan.task, plan.config) for plan in plans])
            parts = build_training(
                config.model, config.data, config.features, config.training.seed, _NUM_SAMPLES, _SAMPLE_TOKENS
            )
            make_optimizer(parts.model, config.optimizer)  # refuses a model of which nothing trains
            for plan in plans:
                evaluate.check_planned_lengths(plan, parts.processor)
            train_model(parts, config, run, overrides)
        for plan in plans:
            evaluate.carry_out(plan)
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
        config.data, parts.records, processor, parts.features, config.training.seed, config.num_workers
    )
    tracker = Tracker(config.wandb, as_recorded(config), run.output, main_process)
    failed = True
    try:
        train(
            model,
            data_sets,
            config.optimizer,
            config.training,
            run.output,
            Callbacks(
                measures=[gate_values],
                on_log=lambda values: tracker.log(flatten_record(values), values["step"]),
                on_sample=sampler(parts.samples, model, processor, tracker),
                on_save=run.keep,
            ),
        )
        failed = False
    finally:
        tracker.finish(failed)
    if main_process:
        with atomic_folder(run.output / "checkpoint") as folder:
            model.save_pretrained(folder, include_backbones=config.include_backbones)
            processor.save_pretrained(folder)
        log.info("trained: %s", run.output / "checkpoint")


def _compute_features(parts: TrainingParts, config: DataConfig, output: Path) -> None:
    if parts.records is None:
        return
    if PartialState().is_main_process:
        skipped = parts.records.training.skipped | parts.records.samples.skipped
        write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
    if parts.features is not None:
        keep_memory()
        add_features(parts.features, images_of(config, parts.records))


class Tracker:
    """A run of wandb. Its first failure is logged as a warning, and training continues."""

    def __init__(self, config: WandbConfig, values: Mapping[str, Any], output: Path, main_process: bool) -> None:
        """Start it.

        Args:
            config: The mode, the project and the group.
            values: The run's config, which wandb shows.
            output: The run's folder, which gets everything that wandb writes.
            main_process: Whether this process logs; the others of a run do not.
        """
        self._run: Any = None
        self._has_failed = False
        self._environment = _wandb_environment(output / "wandb")
        os.environ.update(self._environment)

        def start() -> None:
            self._run = wandb.init(
                mode=config.mode if main_process else "disabled",  # type: ignore[arg-type]  # checked by WandbConfig
                project=config.project,
                group=config.group,
                name=output.name,
                dir=output,
                config=dict(values),
                settings=wandb.Settings(silent=True),
            )

        self.attempt("wandb", start)

    def log(self, values: JSON, step: int) -> None:
        """Log values of a step."""
        if self._run is not None:
            self.attempt("wandb", lambda: self._run.log(values, step=step))

    def finish(self, failed: bool) -> None:
        """End the run of wandb."""
        if self._run is not None:
            self.attempt("wandb", lambda: self._run.finish(exit_code=int(failed)))
        if self._has_failed:
            self.attempt("wandb", wandb.teardown)  # else it fails once more, with a trace, at the end of the process
        for name in self._environment:
            os.environ.pop(name, None)

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do something that training does not need: its first error is logged, and later ones are not."""
        try:
            work()
        except Exception as error:
            if not self._has_failed:
                log.warning("%s has failed, and training continues: %s: %s", what, type(error).__name__, error)
            self._has_failed = True


def _wandb_environment(folder: Path) -> dict[str, str]:
    """Returns environment variables that let wandb write below ``folder``, apart from those that the user has set."""
    folders = {name: str(folder / below) for name, below in _WANDB_FOLDERS.items()}
    if not Path("~/.config/wandb").expanduser().is_dir():  # else it has settings of the user, such as a server
        folders["WANDB_CONFIG_DIR"] = str(folder / "config")
    return {name: value for name, value in folders.items() if name not in os.environ}


def flatten_record(record: JSON) -> JSON:
    """Returns a record of the history with ``gates/<layer>.<part>`` for what is nested."""
    gates = {f"gates/{name}": value for name, value in record["gates"].items()}
    return {key: value for key, value in record.items() if key not in ("gates", "step")} | gates


def sampler(
    documents: Sequence[Document],
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    tracker: Tracker,
) -> Callable[[int], None]:
    """Returns a function that logs the model's last answer to each document, with the images."""
    prompts = [sample_prompt(document) for document in documents]

    def sample(step: int) -> None:
        outputs = FlamingoEngine(model, processor, batch_size=len(prompts)).generate(prompts, _SAMPLE_TOKENS)
        table = wandb.Table(columns=["document", "picture", "prompt", "output", "reference"])
        for prompt, document, output in zip(prompts, documents, outputs, strict=True):
            image = prompt.chunks()[-1].image
            question, answer = document.chunks()[-1].texts
            assert image is not None
            picture = wandb.Image(open_image(image.frames[0]))
            table.add_data(document.id, picture, question.text, output, answer.text.strip())
        tracker.log({"predictions": table}, step)

    return lambda step: tracker.attempt("a sample", lambda: sample(step))


@command("train")
def main(config: DictConfig) -> float:
    job = HydraConfig.get()
    output = Path(job.runtime.output_dir)
    with failure_recorded(Run(output, {}, _KIND)):
        values: TrainConfig = load(config)
    return run_training(values, output, list(job.overrides.task))


if __name__ == "__main__":
    main()
