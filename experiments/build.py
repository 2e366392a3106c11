"""A config -> the model, the features, the task."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image as PILImage
from transformers import AutoConfig

from experiments.data import captioned_images
from experiments.schema import ALL_TASKS, FeaturesConfig, ModelConfig
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.data.record import Record
from flamingo.evaluation.metrics.corpus import check_metrics
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.scores import computable
from flamingo.evaluation.tasks import CaptioningConfig, TaskConfig
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.inference.features import PRECISIONS, FeatureStore, kept_identity
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.model.checkpoints import fingerprint
from flamingo.model.language import make_text_model
from flamingo.model.vision import image_size
from flamingo.model.vision_probe import check_encoder
from flamingo.synthetic import backbones
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.kinds import class_of
from flamingo.utils.run_folder import read_config


def backbone_names(config: ModelConfig) -> dict[str, str]:
    """Returns the folder or the hub name of the backbones ``vision`` and ``language``."""
    names = {"vision": config.vision, "language": config.language}
    embedded = {"vision": backbones.VISION, "language": backbones.LANGUAGE}
    return {key: str(embedded[key]) if name == "embedded" else name for key, name in names.items()}


def build_model(config: ModelConfig) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of a config, untrained between its backbones, and its processor.

    Raises:
        UserError: For backbones that are not there, and for parts that cannot train.
    """
    names = backbone_names(config)
    for key, name in names.items():
        from_pretrained(AutoConfig, name, f"model.{key}")
    processor = FlamingoProcessor.from_vision_text_pretrained(
        names["vision"], names["language"], config.image_size, aspect=config.aspect
    )
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        names["vision"],
        names["language"],
        dtype=config.dtype,
        new_token_ids=processor.new_token_ids,
        vision_features=config.vision_features,
        connector=config.connector,
        fusion=config.fusion,
    )
    _check_picture_size(model, processor, config.image_size)
    if config.from_scratch:
        fresh = make_text_model(model.language_model.config)
        model.language_model.load_state_dict(fresh.state_dict())
        model.new_tokens.start_from_mean(model.get_input_embeddings(), model.get_output_embeddings())
    if config.init_from is not None:
        _begin_with(model, config.init_from)
    model.train_parts(config.trainable)
    return model, processor


def _check_picture_size(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, side: int | None
) -> None:
    """Raise UserError unless the encoder takes pictures of the size that its image processor makes."""
    usual = image_size(model.vision_model.config)
    height, width = usual if side is None else (side, side)
    blank = Image(PILImage.new("RGB", (width, height)))
    made_height, made_width = processor.pixel_values([blank]).shape[-2:]
    made = (made_height, made_width)
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


def build_features(
    config: FeaturesConfig, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
) -> FeatureStore | None:
    """Returns the features of a config's folder; None where it names none.

    Raises:
        UserError: For a folder of other features.
    """
    if config.folder is None:
        return None
    dtype = None if config.dtype is None else PRECISIONS[config.dtype]
    with PartialState().main_process_first():
        return FeatureStore(Path(config.folder), model, processor, dtype)


def stored_dtype(folder: Path) -> str | None:
    """Returns the dtype of the features in a folder; None where there are none."""
    identity = kept_identity(folder)
    return None if identity is None else identity["kept_as"]


def add_features(features: FeatureStore, images: Iterable[Image]) -> None:
    """Compute missing features in the main process; the other processes find them in the folder."""
    with PartialState().main_process_first():
        features.add(images)


def build_task(config: TaskConfig, opens: bool) -> Task:
    """Returns the task of a config.

    Args:
        config: The config of any kind of task.
        opens: Whether photographs beside a file of captions are opened, so that broken ones are found now.

    Raises:
        UserError: For images that cannot be read.
    """
    if not isinstance(config, CaptioningConfig):
        return class_of(ALL_TASKS, config.kind).from_config(config)
    check_metrics(config.metrics)  # before minutes of reading
    query = captioned_images(config.query, config.images, config.format, config.query_split, opens)
    pool = captioned_images(config.support, config.images, config.format, config.support_split, opens)
    return Captioning(
        config.name,
        query.images,
        pool.images,
        query.skipped | pool.skipped,
        max_new_tokens=config.max_new_tokens,
        corpus_metrics=computable(config.metrics),
    )


def trained_on(run: Path) -> Sequence[Record]:
    """Returns the captioned images that a run's config names as its training data, if any."""
    if not (run / "config.yaml").exists():
        return []
    data = read_config(run / "config.yaml")["data"]
    if data.get("root") is None:
        return []
    return captioned_images(data["root"], data["images"], data["format"], data["split"], opens=False).images
