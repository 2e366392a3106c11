"""The folder of precomputed features that a config asks for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.inference.features import PRECISIONS, FeatureStore, kept_identity
from flamingo.utils.checks import one_of


@dataclass
class FeaturesConfig:
    """The frozen encoder's features of captioned images, computed once."""

    #: Null: every image is opened and encoded whenever it is met.
    folder: str | None = None
    #: float32, bfloat16 (then computed in it, too) or float16; null: the encoder's own, with which nothing changes.
    dtype: str | None = None

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, (None, *PRECISIONS))


def open_features(
    config: dict[str, Any], model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
) -> FeatureStore | None:
    """Raises UserError for a folder of other features."""
    if config["folder"] is None:
        return None
    with PartialState().main_process_first():
        return FeatureStore(Path(config["folder"]), model, processor, PRECISIONS.get(config["dtype"]))


def kept_as(folder: Path) -> str | None:
    """The precision of features that are there; None where none are."""
    identity = kept_identity(folder)
    return None if identity is None else identity["kept_as"]


def add_features(features: FeatureStore, images: Iterable[Image]) -> None:
    """Of several processes one computes what is missing, and the others find it there."""
    with PartialState().main_process_first():
        features.add(images)
