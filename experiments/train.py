"""Trains a Flamingo: the connector, the gated blocks and the new tokens between two frozen backbones.

python -m experiments.train experiment=demo                     a few minutes on 2 cores
python -m experiments.train experiment=demo debug=quick         a few steps, to see whether all fits together
python -m experiments.train -m experiment=synthetic model.fusion.every=1,2,4 seed=0,1,2      a sweep of nine runs

Leaves in `output`: config.yaml, overrides.yaml, history.jsonl, state/ (to resume from) and, when done, checkpoint/;
of a sweep each run in a folder below it. A run may be evaluated as soon as it is trained: see `evaluate`.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import wandb
import yaml
from accelerate import PartialState
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

from experiments import evaluate
from experiments.configs import build, check, nested, plain
from experiments.data import (
    CaptionedImages,
    DataConfig,
    check_documents,
    check_images,
    listed_images,
    load_data,
    make_data,
    pictures,
    sample_documents,
    training_images,
)
from experiments.features import FeaturesConfig, add_features, open_features
from experiments.model import ModelConfig, load_model, named
from experiments.objective import ObjectiveConfig, check_objective, objective
from experiments.schema import command
from experiments.tracking import Tracker, WandbConfig
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.contents import contents as data_contents
from flamingo.data.transforms.pictures import open_image
from flamingo.inference.features import FeatureStore
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks, gate_values
from flamingo.training.loop import train
from flamingo.training.optim import OPTIMIZERS, OptimizerConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import check_warmup
from flamingo.utils.checks import finite, seed, whole
from flamingo.utils.checksums import digest_of
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_folder, write_text
from flamingo.utils.kinds import load_kind
from flamingo.utils.processes import keep_memory
from flamingo.utils.run_folder import STATES, WRITING, Kind, Run, failure_recorded, model_contents, run_folder

log = logging.getLogger(__name__)

_KIND = Kind(
    results=(
        *("state", "history.jsonl", "checkpoint", "wandb", "skipped.json"),
        # Of the same weights.
        *("scores.json", "predictions.jsonl", "pictures"),
    ),
    saved=(*STATES, "checkpoint"),
    descriptions=("overrides.yaml", "failure.txt", "evaluate-*.yaml", "images-*.json"),
    may_change=("variant", "evaluate", "objective", "features", *WRITING),
)
#: Predictions in the table that is logged while training, and the tokens each may have.
_SAMPLES, _SAMPLE_TOKENS = 4, 40


@dataclass
class VariantConfig:
    """Of an ablation: how tables call it, and what the paper's counterpart scored there."""

    name: str | None = None
    paper: float | None = None

    def __post_init__(self) -> None:
        if self.paper is not None:
            finite("paper", self.paper)


@dataclass
class TrainConfig:
    """Everything that a training run is made of."""

    output: str = MISSING
    overwrite: bool = False
    #: Of everything that is drawn: weights, documents, their order.
    seed: int = 0
    #: Processes that draw and read pictures; 0: the training process does.
    workers: int = 0
    #: Whether the checkpoint holds the frozen backbones, or only names them.
    include_backbones: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    optimizer: Any = nested(OptimizerConfig)
    training: Any = nested(TrainingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    variant: VariantConfig = field(default_factory=VariantConfig)
    #: What experiments.evaluate is to do when the run is trained: for each evaluation its KEY=VALUE.
    evaluate: list[list[str]] = field(default_factory=list)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        seed("seed", self.seed)
        whole("workers", self.workers, least=0)


ConfigStore.instance().store("train_schema", TrainConfig)


def sampler(
    documents: Sequence[Document],
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    tracker: Tracker,
) -> Callable[[int], None]:
    """Logs what the model says where a document's last answer is to be given, with the pictures."""
    prompts = _prompts(documents)

    def sample(step: int) -> None:
        outputs = FlamingoEngine(model, processor, batch_size=len(prompts)).generate(prompts, _SAMPLE_TOKENS)
        table = wandb.Table(columns=["document", "picture", "prompt", "output", "reference"])
        for prompt, document, output in zip(prompts, documents, outputs, strict=True):
            picture, (question, answer) = prompt.chunks()[-1].image, document.chunks()[-1].texts
            assert picture is not None
            table.add_data(
                document.id, wandb.Image(open_image(picture.frames[0])), question.text, output, answer.text.strip()
            )
        tracker.log({"predictions": table}, step)

    return lambda step: tracker.attempt("a sample", lambda: sample(step))


def _prompts(documents: Sequence[Document]) -> list[Document]:
    """Without their last answers."""
    return [Document(document.parts[:-1], document.id) for document in documents]


def _changed_backbones(config: dict[str, Any]) -> str:
    changed = [part for part in ("vision_model", "language_model") if part in config["model"]["trainable"]]
    if config["model"]["from_scratch"] and "language_model" not in changed:
        changed.append("language_model")
    return " and ".join(changed)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the history with ``gates/<layer>.<part>`` for what is nested."""
    gates = {f"gates/{name}": value for name, value in record["gates"].items()}
    return {key: value for key, value in record.items() if key not in ("gates", "step")} | gates


def run_training(config: dict[str, Any], output: Path, overrides: Sequence[str] = ()) -> float:
    """The whole run, evaluations included; one that was stopped goes on, what is done is left as it is.

    Everything is checked before anything is removed or computed. ``overrides`` are what was said on the command line
    or by a sweep. Returns what a search goes by.
    """
    with run_folder(output, config, _KIND) as run, failure_recorded(run):
        check_config(config)
        plans = [evaluate.plan(evaluate.composed(own) | {"run": str(output)}) for own in config["evaluate"]]
        evaluate.check_outputs(plans, output)
        if (output / "checkpoint").exists() and not config["overwrite"]:
            check_data(load_data(config["data"]), run)
            log.info("%s is trained already; overwrite=true trains it again", output)
        else:
            check_objective(config["objective"], plans)
            train_model(prepare(config, plans), config, run, overrides)
        for planned in plans:
            evaluate.carry_out(planned)
        return objective(output, config["objective"])


def check_config(config: dict[str, Any]) -> None:
    """Raise UserError, naming the key, for what is wrong with the config alone."""
    check(TrainConfig, config)
    check_warmup(load_kind(OPTIMIZERS, config["optimizer"], "optimizer"), config["training"]["steps"])
    if (changed := _changed_backbones(config)) and not config["include_backbones"]:
        raise UserError(f"the {changed} changes, so the checkpoint has to hold it: say include_backbones=true")
    if config["features"]["folder"] and "vision_model" in config["model"]["trainable"]:
        raise UserError("features.folder keeps what a frozen encoder sees, but model.trainable has the vision_model")
    check_documents(load_data(config["data"]), config["features"]["folder"])


def check_data(config: DataConfig, run: Run) -> None:
    """Raise UserError, with what differs, where captioned images are not those that a run was trained on.

    No picture is opened, and no model is loaded.
    """
    if config.of_records():
        assert config.root is not None
        listed = listed_images(config.root, config.images, config.format, config.split)
        run.check_contents({"data": data_contents(listed)})


@dataclass
class Parts:
    """What a run is made of, checked: the rest is features and training."""

    model: FlamingoForConditionalGeneration
    processor: FlamingoProcessor
    #: Captioned images, where documents are made of these.
    trained: CaptionedImages | None
    sampled: CaptionedImages | None
    #: Documents whose last answers are logged while training.
    samples: list[Document]
    features: FeatureStore | None


def prepare(config: dict[str, Any], plans: Sequence[evaluate.Plan]) -> Parts:
    """Load the model, read the data, and raise UserError for whatever the run would fail at later."""
    torch.manual_seed(config["training"]["seed"])
    model, processor = load_model(config["model"])
    make_optimizer(model, load_kind(OPTIMIZERS, config["optimizer"], "optimizer"))  # is there something to train?
    opens = config["features"]["folder"] is None
    data = load_data(config["data"])
    trained, sampled = training_images(data, processor, opens) or (None, None)
    check_images(data, trained)
    samples = sample_documents(data, sampled, _SAMPLES)
    room = processor.tokenizer.model_max_length - _SAMPLE_TOKENS
    for prompt in _prompts(samples):
        processor.encode(prompt, prompt=True, pixels=False, max_length=room)
    for planned in plans:
        evaluate.check_lengths(evaluate.with_usable_pool(planned, processor), (None, "text_only", "random"), processor)
    features = None if trained is None else open_features(config["features"], model, processor)
    return Parts(model, processor, trained, sampled, samples, features)


def contents(parts: Parts, config: dict[str, Any]) -> dict[str, Any]:
    """Checksums of what the config only names."""
    found = {key: model_contents(named(config["model"], key)) for key in ("vision", "language")}
    if config["model"]["init_from"] is not None:
        found["init_from"] = model_contents(config["model"]["init_from"])
    if parts.features is not None:  # where they lie decides nothing
        found["features"] = str(parts.features.dtype)
    if parts.trained is not None:
        found["data"] = data_contents(parts.trained.listed)
        found["images"] = digest_of(own.id for own in parts.trained.images)
    return found


def train_model(parts: Parts, config: dict[str, Any], run: Run, overrides: Sequence[str]) -> None:
    """From what was prepared to a checkpoint."""
    run.begin(contents(parts, config))
    output = run.output
    if PartialState().is_main_process:
        write_text(output / "overrides.yaml", yaml.safe_dump(list(overrides)))
    training = build(TrainingConfig, config["training"], "training")
    optimizer = load_kind(OPTIMIZERS, config["optimizer"], "optimizer")
    data_config = load_data(config["data"])
    model, processor, trained, features = parts.model, parts.processor, parts.trained, parts.features
    counts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in model.parameter_counts().items())
    log.info("parameters: %s", counts)
    if trained is not None and parts.sampled is not None:
        if PartialState().is_main_process:
            skipped = trained.skipped | parts.sampled.skipped
            write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
        if features is not None:
            keep_memory()
            add_features(features, pictures(data_config, trained, parts.sampled))
    data = make_data(data_config, trained, processor, features, training.seed, config["workers"])
    main_process = PartialState().is_main_process
    tracker = Tracker(config, output, main_process)
    failed = True
    try:
        train(
            model,
            data,
            optimizer,
            training,
            output,
            Callbacks(
                measures=[gate_values],
                on_log=lambda record: tracker.log(flat(record), record["step"]),
                on_sample=sampler(parts.samples, model, processor, tracker),
                on_save=run.keep,
            ),
        )
        failed = False
    finally:
        tracker.finish(failed)
    if main_process:
        with atomic_folder(output / "checkpoint") as folder:
            model.save_pretrained(folder, include_backbones=config["include_backbones"])
            processor.save_pretrained(folder)
        log.info("trained: %s", output / "checkpoint")


@command("train")
def main(config: DictConfig) -> float:
    job = HydraConfig.get()
    value = run_training(plain(config), Path(job.runtime.output_dir), list(job.overrides.task))
    return value


if __name__ == "__main__":
    main()
