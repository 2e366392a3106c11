"""The name of an encoder -> its image processor, for images of its own size or of another."""

from math import floor
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

# Imported by its full name: without torchvision transformers 5.17 hides the class at its top level.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained


def load_image_processor(vision_model_name_or_path: str | Path, side: int | None = None) -> Any:
    """Returns the image processor that comes with an encoder.

    Args:
        vision_model_name_or_path: The encoder's folder, or its name on the hub.
        side: Height and width, in pixels, of the images that the encoder gets; None: the image processor's own.

    Raises:
        UserError: If the encoder comes without an image processor, or ``side`` cannot be set.
    """
    # Pillow's resizing needs no torchvision, and most encoders were trained with it.
    image_processor = from_pretrained(AutoImageProcessor, vision_model_name_or_path, "image processor", backend="pil")
    if hasattr(image_processor, "data_config"):
        image_processor = _of_timm(vision_model_name_or_path, image_processor.data_config)
    if side is not None:
        resize(image_processor, side)
    return image_processor


def _of_timm(name: str | Path, transforms: dict[str, Any]) -> CLIPImageProcessorPil:
    """Returns timm's transforms in a form that can be saved: TimmWrapperImageProcessor loads only from an encoder.

    Raises:
        UserError: If the transforms crop in another way than the image processor can.
    """
    _, height, width = transforms["input_size"]
    part, mode = transforms["crop_pct"], transforms["crop_mode"]
    if mode not in ("center", "squash") or (mode == "center" and height != width):
        raise UserError(f"image processor {name}: crop_mode {mode} to {height} x {width} pixels is not supported")
    size = {"height": floor(height / part), "width": floor(width / part)}
    if mode == "center":
        size = {"shortest_edge": size["height"]}
    return CLIPImageProcessorPil(
        size=size,
        crop_size={"height": height, "width": width},
        resample=PILImage.Resampling[transforms["interpolation"].upper()],
        image_mean=list(transforms["mean"]),
        image_std=list(transforms["std"]),
    )


def resize(image_processor: Any, side: int) -> None:
    """Sets the side of the result in pixels, and scales the size that it is cropped from in proportion.

    Raises:
        UserError: If the image processor does not resize.
    """
    size = dict(getattr(image_processor, "size", None) or {})
    crop = dict(getattr(image_processor, "crop_size", None) or {})
    if not size or not getattr(image_processor, "do_resize", True):
        raise UserError(f"image_size is {side}, but {type(image_processor).__name__} does not resize pictures")
    result = crop if getattr(image_processor, "do_center_crop", False) else size
    out = result.get("shortest_edge") or max(result.values())  # of a square picture
    image_processor.size = {key: round(value * side / out) for key, value in size.items()}
    if crop:
        image_processor.crop_size = dict.fromkeys(crop, side)
