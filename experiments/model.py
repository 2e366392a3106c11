"""From a config's ``model`` to a Flamingo between two frozen backbones, and the processor of its input."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING
from PIL import Image as PILImage
from transformers import AutoConfig

from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.data.transforms.pictures import Aspect
from flamingo.inference.features import PRECISIONS
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.model.checkpoints import fingerprint
from flamingo.model.connectors import CONNECTORS, ConnectorConfig
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.language import make_text_model
from flamingo.model.vision import image_size
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.model.vision_probe import check_encoder
from flamingo.synthetic import backbones
from flamingo.utils.checks import one_of, whole
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained


@dataclass
class ModelConfig:
    """The frozen backbones, and what is trained between them: see flamingo/model/config.py."""

    #: Folders or hub names; "embedded" are the two that come with the package.
    vision: str = "embedded"
    language: str = "embedded"
    #: The precision of the frozen backbones: float32, bfloat16, float16, or auto, as they were saved.
    dtype: str = "auto"
    #: Pictures that are not square: padded, cropped, or as_is, left to the encoder's own image processor.
    aspect: str = "as_is"
    #: The pictures' side in pixels, if not what the encoder comes with; convolutional ones take any.
    image_size: int | None = None
    #: The parts that train: these, vision_model, language_model. A checkpoint has to hold a backbone that trains.
    trainable: list[str] = field(default_factory=lambda: ["connector", "gated_layers", "new_tokens"])
    #: A checkpoint between the same backbones, whose trained parts this run begins with; null: random ones.
    init_from: str | None = None
    #: Whether the language model begins with random weights instead of its own.
    from_scratch: bool = False
    vision_features: VisionFeaturesConfig = field(default_factory=VisionFeaturesConfig)
    #: Set by the group model/connector.
    connector: ConnectorConfig = field(default=MISSING, metadata={"kinds": CONNECTORS})
    fusion: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, ("auto", *PRECISIONS))
        one_of("aspect", self.aspect, get_args(Aspect))
        if self.image_size is not None:
            whole("image_size", self.image_size, least=1)
        for part in self.trainable:
            one_of("trainable", part, (*BACKBONES, *TRAINED_PARTS))


for _kind, (_config_class, _) in CONNECTORS.items():
    ConfigStore.instance().store(f"{_kind}_schema", _config_class, group="model/connector")


def named(config: dict[str, Any], key: str) -> str | Path:
    """The folder or the hub's name of the backbone ``vision`` or ``language``."""
    embedded = {"vision": backbones.VISION, "language": backbones.LANGUAGE}
    return embedded[key] if config[key] == "embedded" else config[key]


def load_model(config: dict[str, Any]) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """What the config's ``model`` describes, untrained between its backbones, and what prepares its input.

    Raises UserError for backbones that are not there, and for parts to train that are not.
    """
    vision, language = named(config, "vision"), named(config, "language")
    for key, name in (("vision", vision), ("language", language)):
        from_pretrained(AutoConfig, name, f"model.{key}")
    processor = FlamingoProcessor.from_vision_text_pretrained(
        vision, language, config["image_size"], aspect=config["aspect"]
    )
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        vision,
        language,
        dtype=config["dtype"],
        new_token_ids=processor.new_token_ids,
        vision_features=config["vision_features"],
        connector=config["connector"],
        fusion=config["fusion"],
    )
    _check_picture_size(model, processor, config["image_size"])
    if config["from_scratch"]:
        fresh = make_text_model(model.language_model.config)
        model.language_model.load_state_dict(fresh.state_dict())
        model.new_tokens.start_from_mean(model.get_input_embeddings(), model.get_output_embeddings())
    if config["init_from"] is not None:
        _begin_with(model, config["init_from"])
    model.train_parts(config["trainable"])
    return model, processor


def _check_picture_size(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, side: int | None
) -> None:
    """Raise UserError unless the encoder takes pictures of the size that its image processor makes."""
    usual = image_size(model.vision_model.config)
    height, width = usual if side is None else (side, side)
    blank = Image(PILImage.new("RGB", (width, height)))
    made = tuple(processor.pixel_values([blank]).shape[-2:])
    if side is not None and made != (side, side):
        name = type(processor.image_processor).__name__
        raise UserError(f"model.image_size is {side}, but {name} makes pictures of {made[0]} x {made[1]} pixels")
    if made == usual:
        return
    try:
        check_encoder(model.vision_model, model.config.vision_features, made, torch.Generator().manual_seed(0))
    except UserError as error:
        raise UserError(f"model.image_size: {error}; its own pictures have {usual[0]} x {usual[1]} pixels") from error


def _begin_with(model: FlamingoForConditionalGeneration, folder: str) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"model.init_from: there is no checkpoint in {folder}")
    start = FlamingoForConditionalGeneration.from_pretrained(folder)
    for part in BACKBONES:
        if fingerprint(getattr(start, part)) != fingerprint(getattr(model, part)):
            raise UserError(f"model.init_from: {folder} was trained with another {part.replace('_', ' ')}")
    try:
        for part in TRAINED_PARTS:
            getattr(model, part).load_state_dict(getattr(start, part).state_dict())
    except RuntimeError as error:  # other shapes, which torch names
        raise UserError(f"model.init_from: {folder} has another {part.replace('_', ' ')}: {error}") from error
