"""Trains a Flamingo: the resampler, the gated blocks and the new tokens between two frozen backbones.

python -m experiments.train experiment=demo                     a few minutes on 2 cores
python -m experiments.train experiment=demo debug=quick         a few steps, to see whether all fits together

Leaves in `output`: config.yaml, history.jsonl, state/ (to resume from) and, when done, checkpoint/.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import torch
import wandb
from accelerate import PartialState
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

from experiments.configs import build, nested, plain
from experiments.data import DataConfig, make_data, pictures, sample_documents, training_images
from experiments.features import FeaturesConfig, add_features, open_features
from experiments.runs import begin, check_model, folder_written_atomically, user_errors, write_atomically
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor, backbones
from flamingo.data.pictures import open_image
from flamingo.decoding import Decoder
from flamingo.model.configuration import GatedConfig, ResamplerConfig, VisionFeaturesConfig
from flamingo.training.loop import TrainingConfig, train
from flamingo.training.optimizer import OptimizerConfig

log = logging.getLogger(__name__)

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
    vision_features: Any = nested(VisionFeaturesConfig)
    resampler: Any = nested(ResamplerConfig)
    gated: Any = nested(GatedConfig)


@dataclass
class WandbConfig:
    """offline needs no account and writes into the run's folder; `wandb sync` uploads it later."""

    mode: str = "offline"
    project: str = "flamingo"
    group: str | None = None


@dataclass
class TrainConfig:
    """Everything that a training run is made of."""

    output: str = MISSING
    overwrite: bool = False
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


ConfigStore.instance().store("train_schema", TrainConfig)


def load_model(config: dict[str, Any]) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """What the config's ``model`` describes, untrained between its backbones, and what prepares its input.

    Raises ValueError for backbones that are not there.
    """
    vision = backbones.VISION if config["vision"] == "embedded" else config["vision"]
    language = backbones.LANGUAGE if config["language"] == "embedded" else config["language"]
    for key, name in (("vision", vision), ("language", language)):
        check_model(name, f"model.{key}")
    trained = {key: value for key, value in config.items() if key not in ("vision", "language", "dtype", "aspect")}
    processor = FlamingoProcessor.from_vision_text_pretrained(vision, language, aspect=config["aspect"])
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        vision, language, dtype=config["dtype"], new_token_ids=processor.new_token_ids, **trained
    )
    return model, processor


def sampler(
    documents: Sequence[Document], model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, run: Any
) -> Callable[[int], None]:
    """Logs what the model says where a document's last answer is to be given, with the pictures.

    Raises ValueError, at once, for documents that leave it no room.
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


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the history with ``gates/<layer>.<part>`` for what is nested."""
    gates = {f"gates/{name}": value for name, value in record["gates"].items()}
    return {key: value for key, value in record.items() if key not in ("gates", "step")} | gates


def run_training(config: dict[str, Any], output: Path) -> None:
    """The whole run; one that was stopped goes on, one that is done is left as it is."""
    begin(output, config, produces=("state", "history.jsonl", "checkpoint", "wandb", "skipped.json"))
    if (output / "checkpoint").exists():
        log.info("%s is trained already; overwrite=true trains it anew", output)
        return
    training = build(TrainingConfig, config["training"], "training")
    optimizer = build(OptimizerConfig, config["optimizer"], "optimizer")
    torch.manual_seed(training.seed)
    model, processor = load_model(config["model"])
    counts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in model.parameter_counts().items())
    log.info("parameters: %s", counts)
    trained, sampled = training_images(config["data"]) or (None, None)
    features = None
    if trained is not None and sampled is not None:
        if PartialState().is_main_process:
            write_atomically(output / "skipped.json", json.dumps(trained.skipped | sampled.skipped, indent=1) + "\n")
        features = open_features(config["features"], model, processor)
        if features is not None:
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
        with folder_written_atomically(output / "checkpoint") as folder:
            model.save_pretrained(folder, include_backbones=config["include_backbones"])
            processor.save_pretrained(folder)
        log.info("trained: %s", output / "checkpoint")


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with user_errors():
        run_training(plain(config), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
