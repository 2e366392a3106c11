"""Trains a Flamingo: the resampler, the gated blocks and the new tokens between two frozen backbones.

python -m experiments.train experiment=demo                     a few minutes on 2 cores
python -m experiments.train experiment=demo debug=quick         a few steps, to see whether all fits together
python -m experiments.train -m experiment=world model.gated.every=1,2,4 seed=0,1,2      a sweep of nine runs

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
from transformers import AutoModelForCausalLM

from experiments import evaluate
from experiments.configs import build, nested, plain
from experiments.data import DataConfig, check_documents, make_data, pictures, sample_documents, training_images
from experiments.features import FeaturesConfig, add_features, open_features
from experiments.objective import ObjectiveConfig, objective
from experiments.runs import (
    begin,
    check_model,
    command,
    failure_recorded,
    keep_memory,
)
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor, backbones
from flamingo.data.pictures import open_image
from flamingo.decoding import Decoder
from flamingo.model.configuration import GatedConfig, ResamplerConfig, VisionFeaturesConfig
from flamingo.model.modeling import BACKBONES, TRAINED_PARTS
from flamingo.model.pretrained import fingerprint
from flamingo.training.loop import TrainingConfig, train
from flamingo.training.optimizer import OptimizerConfig, check_warmup
from flamingo.utils.checks import finite, one_of, seed, whole
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_folder, write_text

log = logging.getLogger(__name__)

#: What a run leaves, and one that overwrites it removes.
_PRODUCES = (
    *("state", "history.jsonl", "checkpoint", "wandb", "skipped.json"),
    # Results of the weights that are gone.
    *("scores.json", "predictions.jsonl", "pictures"),
)
#: Predictions in the table that is logged while training, and the tokens each may have.
_SAMPLES, _SAMPLE_TOKENS = 4, 40


@dataclass
class ModelConfig:
    """The frozen backbones, and what is trained between them: see flamingo/model/configuration.py."""

    #: Folders or hub names; "embedded" are the two that come with the package.
    vision: str = "embedded"
    language: str = "embedded"
    #: The precision of the frozen backbones: float32, bfloat16, float16, or auto, as they were saved.
    dtype: str = "auto"
    #: Pictures that are not square: padded, cropped, or as_is, left to the encoder's own image processor.
    aspect: str = "as_is"
    #: The pictures' side in pixels, if not what the encoder comes with; convolutional ones take any.
    image_size: int | None = None
    #: What trains, of these and vision_model, language_model; a backbone that does has to be in the checkpoint.
    trains: list[str] = field(default_factory=lambda: ["resampler", "gated_layers", "new_tokens"])
    #: A checkpoint between the same backbones, whose trained parts this run begins with; null: with random ones.
    start: str | None = None
    #: Whether the language model begins with random weights instead of its own.
    from_scratch: bool = False
    vision_features: Any = nested(VisionFeaturesConfig)
    resampler: Any = nested(ResamplerConfig)
    gated: Any = nested(GatedConfig)

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, ("auto", *PRECISIONS))
        one_of("aspect", self.aspect, get_args(Aspect))
        if self.image_size is not None:
            whole("image_size", self.image_size, least=1)
        for part in self.trains:
            one_of("trains", part, (*BACKBONES, *TRAINED_PARTS))


@dataclass
class VariantConfig:
    """Of an ablation: how tables call it, and what the paper's counterpart scored there."""

    name: str | None = None
    paper: float | None = None

    def __post_init__(self) -> None:
        if self.paper is not None:
            finite("paper", self.paper)


@dataclass
class WandbConfig:
    """offline needs no account and writes into the run's folder; `wandb sync` uploads it later."""

    mode: str = "offline"
    project: str = "flamingo"
    group: str | None = None

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("online", "offline", "shared", "disabled"))


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


def load_model(config: dict[str, Any]) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """What the config's ``model`` describes, untrained between its backbones, and what prepares its input.

    Raises UserError for backbones that are not there, and for parts to train that are not.
    """
    vision = backbones.VISION if config["vision"] == "embedded" else config["vision"]
    language = backbones.LANGUAGE if config["language"] == "embedded" else config["language"]
    for key, name in (("vision", vision), ("language", language)):
        check_model(name, f"model.{key}")
    own = ("vision", "language", "dtype", "aspect", "image_size", "trains", "start", "from_scratch")
    parts = {key: value for key, value in config.items() if key not in own}
    processor = FlamingoProcessor.from_vision_text_pretrained(
        vision, language, config["image_size"], aspect=config["aspect"]
    )
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        vision, language, dtype=config["dtype"], new_token_ids=processor.new_token_ids, **parts
    )
    if config["from_scratch"]:
        fresh = AutoModelForCausalLM.from_config(model.language_model.config)
        model.language_model.load_state_dict(fresh.state_dict())
        model.new_tokens.start_from_mean(model.get_input_embeddings(), model.get_output_embeddings())
    if config["start"] is not None:
        _begin_with(model, config["start"])
    model.train_parts(config["trains"])
    return model, processor


def _begin_with(model: FlamingoForConditionalGeneration, folder: str) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"config key model.start: there is no checkpoint in {folder}")
    start = FlamingoForConditionalGeneration.from_pretrained(folder)
    for part in BACKBONES:
        if fingerprint(getattr(start, part)) != fingerprint(getattr(model, part)):
            raise UserError(f"config key model.start: {folder} was trained with another {part.replace('_', ' ')}")
    try:
        for part in TRAINED_PARTS:
            getattr(model, part).load_state_dict(getattr(start, part).state_dict())
    except RuntimeError as error:  # other shapes, which torch names
        raise UserError(f"config key model.start: {folder} has another {part.replace('_', ' ')}: {error}") from error


def sampler(
    documents: Sequence[Document], model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, run: Any
) -> Callable[[int], None]:
    """Logs what the model says where a document's last answer is to be given, with the pictures.

    Raises UserError, at once, for documents that leave it no room.
    """
    prompts = [Document(document.parts[:-1], document.id) for document in documents]
    for prompt in prompts:
        room = processor.tokenizer.model_max_length - _SAMPLE_TOKENS
        processor.encode(prompt, prompt=True, pixels=False, max_length=room)

    def sample(step: int) -> None:
        outputs = Decoder(model, processor, batch_size=len(prompts))(prompts, _SAMPLE_TOKENS)
        table = wandb.Table(columns=["document", "picture", "prompt", "output", "reference"])
        for prompt, document, output in zip(prompts, documents, outputs, strict=True):
            picture, (question, answer) = prompt.chunks()[-1].image, document.chunks()[-1].texts
            assert picture is not None
            table.add_data(
                document.id, wandb.Image(open_image(picture.frames[0])), question.text, output, answer.text.strip()
            )
        run.log({"predictions": table}, step=step)

    return sample


def _changed_backbones(config: dict[str, Any]) -> str:
    changed = [part for part in ("vision_model", "language_model") if part in config["model"]["trains"]]
    if config["model"]["from_scratch"] and "language_model" not in changed:
        changed.append("language_model")
    return " and ".join(changed)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the history with ``gates/<layer>.<part>`` for what is nested."""
    gates = {f"gates/{name}": value for name, value in record["gates"].items()}
    return {key: value for key, value in record.items() if key not in ("gates", "step")} | gates


def run_training(config: dict[str, Any], output: Path, overrides: Sequence[str] = ()) -> float:
    """The whole run, evaluations included; one that was stopped goes on, what is done is left as it is.

    ``overrides`` are what was said on the command line or by a sweep. Returns what a search goes by.
    """
    # First of all: a mistake in them is not to be found after an hour of training.
    evaluations = [evaluate.composed(overrides) | {"run": str(output)} for overrides in config["evaluate"]]
    begin(output, config, _PRODUCES, may_change=("variant", "evaluate", "objective"))
    if PartialState().is_main_process:
        write_text(output / "overrides.yaml", yaml.safe_dump(list(overrides)))
    with failure_recorded(output):
        if (output / "checkpoint").exists():
            log.info("%s is trained already; overwrite=true trains it anew", output)
        else:
            train_model(config, output)
        for evaluation in evaluations:
            evaluate.run_evaluation(evaluation)
        return objective(output, config["objective"])


def train_model(config: dict[str, Any], output: Path) -> None:
    """From the config to a checkpoint."""
    training = build(TrainingConfig, config["training"], "training")
    optimizer = build(OptimizerConfig, config["optimizer"], "optimizer")
    # Rather than when minutes have gone into features.
    check_warmup(optimizer, training.steps)
    check_documents(config["data"])
    torch.manual_seed(training.seed)
    if (changed := _changed_backbones(config)) and not config["include_backbones"]:
        raise UserError(f"the {changed} changes, so the checkpoint has to hold it: say include_backbones=true")
    if config["features"]["folder"] and "vision_model" in config["model"]["trains"]:
        raise UserError("features.folder keeps what a frozen encoder sees, but model.trains has the vision_model")
    model, processor = load_model(config["model"])
    counts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in model.parameter_counts().items())
    log.info("parameters: %s", counts)
    trained, sampled = training_images(config["data"]) or (None, None)
    features = None
    if trained is not None and sampled is not None:
        if PartialState().is_main_process:
            write_text(output / "skipped.json", json.dumps(trained.skipped | sampled.skipped, indent=1) + "\n")
        features = open_features(config["features"], model, processor)
        if features is not None:
            keep_memory()
            add_features(features, pictures(config["data"], trained, sampled))
    data = make_data(config["data"], trained, processor, features, training.seed, config["workers"])
    main_process = PartialState().is_main_process
    # Not as a context: that would print a stack trace of every Ctrl-C.
    run = wandb.init(
        mode=config["wandb"]["mode"] if main_process else "disabled",
        project=config["wandb"]["project"],
        group=config["wandb"]["group"],
        name=output.name,
        dir=output,
        config=config,
        settings=wandb.Settings(silent=True),
    )
    failed = True
    try:
        train(
            model,
            data,
            optimizer,
            training,
            output,
            on_log=lambda record: run.log(flat(record), step=record["step"]),
            on_sample=sampler(sample_documents(config["data"], sampled, _SAMPLES), model, processor, run),
        )
        failed = False
    finally:
        run.finish(exit_code=int(failed))
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
