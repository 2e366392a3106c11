"""Pictures of any kind -> upright RGB pictures, square if wanted."""

import io
import math
import random
import zlib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps, ImageStat, UnidentifiedImageError

from flamingo.data.document import Frame, Readable, View
from flamingo.utils.errors import UserError
from flamingo.utils.io import regular_file

Aspect = Literal["as_is", "pad", "crop"]

#: Of a picture that is padded to a square, in pixels: the square takes 200 MB then.
_LONGEST_SIDE = 8192


def open_image(frame: Frame) -> PILImage.Image:
    """An upright RGB picture; what is transparent shows white.

    16-bit greys are divided by 257; 32-bit integers and floats, whose range nobody states, are spread
    from the picture's least value (black) to its greatest (white). Raises UserError, naming the file
    or member, where it is missing or broken.
    """
    if isinstance(frame, View):
        return _part(open_image(frame.frame), frame.number)
    try:
        if isinstance(frame, PILImage.Image):
            return _rgb(ImageOps.exif_transpose(frame))
        with PILImage.open(io.BytesIO(frame_bytes(frame)), formats=_formats()) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            return _rgb(picture)
    except FileNotFoundError as error:
        raise UserError(f"image file {frame} does not exist") from error
    except UnidentifiedImageError as error:  # whose own words name a buffer in memory
        raise UserError(f"image {frame} cannot be read: it is no picture, or of a format unknown here") from error
    except MemoryError:
        raise
    except Exception as error:  # Broken files make decoders raise nearly anything: SyntaxError, RuntimeError, ...
        raise UserError(f"image {frame} cannot be read: {error}") from error


@cache
def _formats() -> tuple[str, ...]:
    """All that Pillow reads but EPS, for which it would run Ghostscript on the file; the usual ones are tried first."""
    PILImage.init()
    usual = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
    return *usual, *(name for name in PILImage.ID if name not in (*usual, "EPS"))


def frame_bytes(frame: Readable | str) -> bytes:
    """Return the content of a picture's file. Raises OSError where it is missing, or no regular file."""
    if isinstance(frame, str | Path):
        return regular_file(Path(frame)).read_bytes()
    return frame.read_bytes()


def shaped(picture: PILImage.Image, aspect: Aspect) -> PILImage.Image:
    """Return a picture ``as_is``, or square: with borders of its mean colour (``pad``), or its centre (``crop``).

    A picture that is longer than 8,192 pixels is first made so long, as a larger square would fill the memory.
    """
    if aspect == "as_is" or picture.width == picture.height:
        return picture
    if aspect == "pad" and max(picture.size) > _LONGEST_SIDE:
        share = _LONGEST_SIDE / max(picture.size)
        width, height = (max(1, round(share * edge)) for edge in picture.size)
        picture = picture.resize((width, height), PILImage.Resampling.BICUBIC)
    width, height = picture.size
    side = max(width, height) if aspect == "pad" else min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if aspect == "crop":
        return picture.crop((left, top, left + side, top + side))
    square = PILImage.new("RGB", (side, side), tuple(round(mean) for mean in ImageStat.Stat(picture).mean))
    square.paste(picture, (-left, -top))
    return square


def _part(picture: PILImage.Image, number: int) -> PILImage.Image:
    """Of half of its area to all of it, and slightly longer or wider: the smaller, the more is magnified later."""
    rng = random.Random(f"{number} {zlib.crc32(picture.tobytes())}")
    area, stretch = rng.uniform(0.5, 1), math.exp(rng.uniform(-0.2, 0.2))
    width = max(1, min(picture.width, round(picture.width * math.sqrt(area * stretch))))
    height = max(1, min(picture.height, round(picture.height * math.sqrt(area / stretch))))
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    part = picture.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if rng.random() < 0.5 else part


def _rgb(picture: PILImage.Image) -> PILImage.Image:
    picture = _eight_bits(picture)
    if not picture.has_transparency_data:
        picture.load()  # what is RGB already need not be copied, but its file is going to be closed
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    white = PILImage.new("RGBA", picture.size, "white")
    return PILImage.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _eight_bits(picture: PILImage.Image) -> PILImage.Image:
    if picture.mode in ("I", "F"):  # Pillow would clip them.
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
