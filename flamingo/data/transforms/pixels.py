"""Pictures -> pixel values as an image processor of transformers makes them, in two steps: bytes, and their floats.

Bytes take a quarter of the memory on the way from a loader's processes to the model's device. This module implements
the most common image processors itself. It resizes by PyTorch, as transformers does where torchvision is installed, in
a third of Pillow's time; for photographs few bytes differ, by one or two of 255. All other image processors make their
floats themselves.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

from flamingo.data.document import Frame
from flamingo.data.transforms.pictures import Aspect, open_reduced, shaped
from flamingo.utils.errors import UserError

#: ConvNeXt's image processor resizes to squares from this side on.
_CONVNEXT_SQUARE = 384
#: The image processors of transformers that this module implements. They resize, crop, rescale and normalize as their
#: base class PilBackend does; a test compares each with this module. Subclasses are not included: they may differ.
USUAL = {
    "BitImageProcessorPil",
    "BlipImageProcessorPil",
    "CLIPImageProcessorPil",
    "ChameleonImageProcessorPil",
    "ChineseCLIPImageProcessorPil",
    "DeiTImageProcessorPil",
    "MobileNetV1ImageProcessorPil",
    "OwlViTImageProcessorPil",
    "PPChart2TableImageProcessorPil",
    "PvtImageProcessorPil",
    "SiglipImageProcessorPil",
    "ViTImageProcessorPil",
}
#: The keys that the size of such an image processor may have.
_SIZES = ({"height", "width"}, {"shortest_edge"})
#: PyTorch's names for ways to resize.
_MODES = {
    PILImage.Resampling.BILINEAR: "bilinear",
    PILImage.Resampling.BICUBIC: "bicubic",
}
#: Above this ratio of its sides a picture is cut to its centre before it is resized. Otherwise the parts that are
#: cropped later would be enlarged first, to 3 GB for a picture of 1 by 20,000 pixels.
_LONG = 8
#: The most pixels that a picture may be enlarged to if it is not cropped.
_MOST_PIXELS = 2**26


def resized(
    image_processor: Any, frames: Sequence[Frame], aspect: Aspect = "as_is", draft: bool = False
) -> UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"]:
    """Returns the pictures, resized and cropped: bytes for :func:`normalized`, or floats of an unusual image processor.

    Args:
        image_processor: An image processor of transformers.
        frames: Pictures, or where they lie.
        aspect: How pictures are made square first: see :func:`flamingo.data.transforms.pictures.shaped`.
        draft: Whether JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if the result has no more pixels. It changes
            the bytes a little, and has no effect with an unusual image processor.

    Raises:
        UserError: If a picture is broken or cannot be resized, by its name; and if the results differ in size.
    """
    is_usual = _is_usual(image_processor)
    needed_share = partial(_needed_share, image_processor, aspect) if draft and is_usual else None
    pixels = []
    for frame in frames:
        opened, whole_size = open_reduced(frame, needed_share)
        picture = shaped(opened, aspect)
        try:
            bounded = _bounded(image_processor, picture)
            if not is_usual:
                pixels.append(_prepared(image_processor, bounded))
                continue
            # The sides of a reduced picture are rounded, which would change the proportions of the result.
            size = bounded.size if opened.size == whole_size else _shaped_size(aspect, *whole_size)
            pixels.append(_pixels(image_processor, bounded, _size(image_processor, *size)))
        except (ValueError, ZeroDivisionError) as error:  # image processors raise them for sides of 0 pixels
            raise UserError(f"image {frame} has {picture.width} by {picture.height} pixels: {error}") from error
    sizes = {(one.shape[2], one.shape[1]) for one in pixels}
    if len(sizes) > 1:
        name = type(image_processor).__name__
        raise UserError(
            f"{name} makes pictures of different sizes, {sorted(sizes)}: make them square (aspect=pad or aspect=crop)"
        )
    return torch.stack(pixels)


def normalized(
    image_processor: Any, pixels: UInt8[Tensor, "*n c h w"] | Float[Tensor, "*n c h w"]
) -> Float[Tensor, "*n c h w"]:
    """Returns the floats that the encoder takes, on the device of ``pixels``. Bytes are normalized, floats kept."""
    if pixels.dtype != torch.uint8:
        return pixels
    mean = torch.tensor(image_processor.image_mean).view(-1, 1, 1)
    std = torch.tensor(image_processor.image_std).view(-1, 1, 1)
    scale = image_processor.rescale_factor
    # Asynchronous copies: the host does not wait for the device.
    shift = (mean / scale).to(pixels.device, non_blocking=True)
    factor = (scale / std).to(pixels.device, non_blocking=True)
    return pixels.float().sub_(shift).mul_(factor)


def _bounded(image_processor: Any, picture: PILImage.Image) -> PILImage.Image:
    """Returns the picture, or the part of it that is used, so that the resized picture fits into memory.

    Raises:
        UserError: If the whole picture is used and is too long.
    """
    side = _shortest_edge(image_processor)
    short, long = sorted(picture.size)
    if side is None or long <= _LONG * short:
        return picture
    if _crops_centre(image_processor, side):
        return _centre(picture, _LONG * short)
    enlarged = side * round(side * long / short)
    if enlarged > _MOST_PIXELS:
        name = type(image_processor).__name__
        raise UserError(f"{name} resizes the shorter side to {side}, which would make {enlarged} pixels")
    return picture


def _shortest_edge(image_processor: Any) -> int | None:
    """Returns the side that pictures are resized to in proportion; None if they are resized otherwise or not at all."""
    size = _present(getattr(image_processor, "size", None))
    if not getattr(image_processor, "do_resize", False) or size.keys() != {"shortest_edge"}:
        return None
    side = size["shortest_edge"]
    # ConvNeXt's image processor resizes to a square from this side on, and crops to smaller ones.
    if _convnext(image_processor) and side >= _CONVNEXT_SQUARE:
        return None
    return side


def _present(size: Any) -> dict[str, int]:
    """Returns the entries of an image processor's size that are set."""
    return {key: length for key, length in dict(size or {}).items() if length}


def _crops_centre(image_processor: Any, side: int) -> bool:
    if _convnext(image_processor):
        return True
    if not getattr(image_processor, "do_center_crop", False):
        return False
    crop = dict(getattr(image_processor, "crop_size", None) or {})
    return max(crop.values(), default=0) <= _LONG * side


def _convnext(image_processor: Any) -> bool:
    has_crop_pct = getattr(image_processor, "crop_pct", None) is not None
    crops_centre = getattr(image_processor, "do_center_crop", None) is not None  # PoolFormer's has both
    return has_crop_pct and not crops_centre


def _centre(picture: PILImage.Image, length: int) -> PILImage.Image:
    """Returns the middle ``length`` pixels of the longer side, or one more, so that the centre does not move."""
    width = _centre_length(picture.width, length)
    height = _centre_length(picture.height, length)
    left = (picture.width - width) // 2
    top = (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _centre_length(edge: int, length: int) -> int:
    difference = edge - length
    return min(edge, length + difference % 2)


def _is_usual(image_processor: Any) -> bool:
    """Returns whether the processor is one of :data:`USUAL`, with settings that this module implements."""
    kind = type(image_processor)
    if kind.__name__ not in USUAL or not kind.__module__.startswith("transformers.models."):
        return False
    if not image_processor.do_rescale or not image_processor.do_normalize:
        return False
    if getattr(image_processor, "do_pad", None):
        return False
    size = _present(image_processor.size)
    return image_processor.resample in _MODES and size.keys() in _SIZES


def _prepared(image_processor: Any, picture: PILImage.Image) -> Float[Tensor, "c h w"]:
    """Returns the image processor's result for a single picture: some pad all pictures of a batch to the largest.

    Raises:
        UserError: If the result is not one picture [1 c h w].
    """
    name = type(image_processor).__name__
    pixels = image_processor([picture], return_tensors="pt").get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or len(pixels) != 1:
        found = "no pixel_values" if pixels is None else f"pixel_values {list(np.shape(pixels))}"
        raise UserError(f"{name} makes {found} of a picture, not one picture [1 c h w]: its encoder is not supported")
    return pixels[0]


def _pixels(image_processor: Any, picture: PILImage.Image, size: tuple[int, int]) -> UInt8[Tensor, "c h w"]:
    """Returns the picture, resized to ``size`` (height, width) and cropped."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    if image_processor.do_resize and size != pixels.shape[1:]:
        mode = _MODES[image_processor.resample]
        pixels = F.interpolate(pixels.unsqueeze(0), size, mode=mode, antialias=True).squeeze(0)
    if image_processor.do_center_crop:
        _, height, width = pixels.shape
        crop_width = image_processor.crop_size["width"]
        crop_height = image_processor.crop_size["height"]
        left = (width - crop_width) // 2
        top = (height - crop_height) // 2
        right = width - crop_width - left
        bottom = height - crop_height - top
        # Negative padding crops. Positive padding is black.
        pixels = F.pad(pixels, (-left, -right, -top, -bottom))
    return pixels


def _needed_share(image_processor: Any, aspect: Aspect, width: int, height: int) -> float:
    """Returns the share of a picture's width and height that the image processor keeps; 1 if it keeps all."""
    if not image_processor.do_resize or max(width, height) > _LONG * min(width, height):
        return 1.0
    width, height = _shaped_size(aspect, width, height)
    resized_height, resized_width = _size(image_processor, width, height)
    return min(1.0, max(resized_height / height, resized_width / width))


def _shaped_size(aspect: Aspect, width: int, height: int) -> tuple[int, int]:
    """Returns the width and height of :func:`flamingo.data.transforms.pictures.shaped`."""
    if aspect == "as_is":
        return width, height
    side = max(width, height) if aspect == "pad" else min(width, height)
    return side, side


def _size(image_processor: Any, width: int, height: int) -> tuple[int, int]:
    """Returns the height and width that a picture is resized to. A shortest edge keeps the picture's proportions."""
    size = dict(image_processor.size)
    resized_height = size.get("height")
    resized_width = size.get("width")
    side = size.get("shortest_edge")
    if resized_height and resized_width:
        return resized_height, resized_width
    assert side is not None, size
    short = min(width, height)
    return _scaled(height, side, short), _scaled(width, side, short)


def _scaled(edge: int, side: int, short: int) -> int:
    if edge == short:
        return side
    return int(side * edge / short)
