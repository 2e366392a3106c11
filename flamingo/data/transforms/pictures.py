"""Pictures of any kind -> upright RGB pictures, made square on request."""

import io
import math
import random
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, ImageOps, ImageStat, UnidentifiedImageError
from PIL import Image as PILImage

from flamingo.data.document import Crop, Frame, Readable
from flamingo.utils.errors import UserError
from flamingo.utils.reading import regular_file

Aspect = Literal["as_is", "pad", "crop"]
#: Returns the share of its width and height with which an upright picture is needed.
NeededShare = Callable[[int, int], float]

#: The longest side, in pixels, of a picture that is padded to a square. The square then takes 200 MB.
_LONGEST_SIDE = 8192
#: The EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


def open_image(frame: Frame) -> PILImage.Image:
    """Returns an upright RGB picture. Transparent parts are white.

    16-bit greys are divided by 257. 32-bit integers and floats have no fixed range: the picture's least value becomes
    black, its greatest white.

    Raises:
        UserError: If the picture is missing or broken; the error names the file or the member of the shard.
        MemoryError: If the picture does not fit into memory.
    """
    picture, _ = open_reduced(frame, None)
    return picture


def open_reduced(frame: Frame, needed_share: NeededShare | None) -> tuple[PILImage.Image, tuple[int, int]]:
    """Returns :func:`open_image`'s picture, a large JPEG reduced on request, and the size of the whole picture.

    Args:
        frame: The picture. A crop is a function of all pixels, so its picture is not reduced.
        needed_share: A JPEG is decoded at 1/8, 1/4 or 1/2 of its width and height, the least of these that is not below
            this share; None: no picture is reduced.

    Raises:
        UserError: If the picture is missing or broken.
        MemoryError: If the picture does not fit into memory.
    """
    if isinstance(frame, Crop):
        part = _part(open_image(frame.frame), frame.number)
        return part, part.size
    try:
        if isinstance(frame, PILImage.Image):
            upright = _rgb(ImageOps.exif_transpose(frame))
            return upright, upright.size
        with PILImage.open(io.BytesIO(frame_bytes(frame)), formats=_formats()) as picture:
            size = _upright_size(picture)
            if needed_share is not None and picture.format in ("JPEG", "MPO"):
                _reduce(picture, needed_share(*size))
            ImageOps.exif_transpose(picture, in_place=True)
            return _rgb(picture), size
    except FileNotFoundError as error:
        raise UserError(f"image file {frame} does not exist") from error
    except UnidentifiedImageError as error:  # Pillow's message names a buffer in memory
        raise UserError(f"image {frame} cannot be read: it is not a picture in a supported format") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything for broken files: SyntaxError, RuntimeError, ...
        raise UserError(f"image {frame} cannot be read: {error}") from error


def _upright_size(picture: PILImage.Image) -> tuple[int, int]:
    width, height = picture.size
    is_turned = picture.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (height, width) if is_turned else (width, height)


def _reduce(picture: PILImage.Image, share: float) -> None:
    """Prepares a JPEG that is not yet decoded: libjpeg computes fewer pixels of each block of 8 x 8."""
    for scale in (8, 4, 2):
        if scale * share <= 1:
            # Pillow takes the largest scale whose result has at least this size.
            picture.draft(None, (picture.width // scale, picture.height // scale))
            return


@cache
def _formats() -> tuple[str, ...]:
    """Returns Pillow's formats, the common ones first, without EPS, for which Pillow would run Ghostscript."""
    PILImage.init()
    formats = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]
    for name in PILImage.ID:
        if name != "EPS" and name not in formats:
            formats.append(name)
    return tuple(formats)


def frame_bytes(frame: Readable | str) -> bytes:
    """Returns the content of a picture's file.

    Raises:
        OSError: If the file is missing, or is not a regular file.
    """
    if isinstance(frame, str | Path):
        return regular_file(Path(frame)).read_bytes()
    return frame.read_bytes()


def shaped(picture: PILImage.Image, aspect: Aspect) -> PILImage.Image:
    """Returns the picture ``as_is``, or a square: padded with its mean colour (``pad``), or its centre (``crop``).

    ``pad`` first scales a picture that is longer than 8,192 pixels to this length: a larger square would fill the
    memory.
    """
    if aspect == "as_is" or picture.width == picture.height:
        return picture
    if aspect == "pad" and max(picture.size) > _LONGEST_SIDE:
        share = _LONGEST_SIDE / max(picture.size)
        width = max(1, round(share * picture.width))
        height = max(1, round(share * picture.height))
        picture = picture.resize((width, height), PILImage.Resampling.BICUBIC)
    width, height = picture.size
    side = max(width, height) if aspect == "pad" else min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if aspect == "crop":
        return picture.crop((left, top, left + side, top + side))
    red, green, blue = ImageStat.Stat(picture).mean
    square = PILImage.new("RGB", (side, side), (round(red), round(green), round(blue)))
    square.paste(picture, (-left, -top))
    return square


def _part(picture: PILImage.Image, number: int) -> PILImage.Image:
    """Returns a random part: half to all of the area, about the picture's proportions, half of the time mirrored."""
    rng = random.Random(f"{number} {zlib.crc32(picture.tobytes())}")
    area = rng.uniform(0.5, 1)
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    width = max(1, min(picture.width, round(picture.width * math.sqrt(area * stretch))))
    height = max(1, min(picture.height, round(picture.height * math.sqrt(area / stretch))))
    left = rng.randint(0, picture.width - width)
    top = rng.randint(0, picture.height - height)
    part = picture.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if rng.random() < 0.5 else part


def _rgb(picture: PILImage.Image) -> PILImage.Image:
    picture = _eight_bits(picture)
    if not picture.has_transparency_data:
        picture.load()  # an RGB picture is not copied, but its file will be closed
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    white = PILImage.new("RGBA", picture.size, "white")
    return PILImage.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _eight_bits(picture: PILImage.Image) -> PILImage.Image:
    if picture.mode in ("I", "F"):  # Pillow would clip the values
        values = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(values).all():
            raise UserError("not all of its values are finite")
        least, greatest = values.min(), values.max()
        scaled = (values - least) * (255 / (greatest - least) if greatest > least else 0)
    elif picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        scaled = np.where(values == picture.info.get("transparency", -1), 255, values / 257)
    else:
        return picture
    return PILImage.fromarray(np.rint(scaled).astype(np.uint8))
