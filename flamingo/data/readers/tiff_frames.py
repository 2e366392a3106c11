"""The frames of TIFF files in tar files, as pictures of their own."""

import io
import struct
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image as PILImage

from flamingo.data.readers.tar_members import TarMember
from flamingo.utils.errors import UserError

#: A TIFF with more frames is not read.
MOST_FRAMES = 1000
#: A larger TIFF is not read, in bytes.
LARGEST_TIFF = 512 << 20
_LOSSLESS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")


@dataclass(frozen=True)
class TiffFrame:
    """A frame of a TIFF file in a tar file."""

    file: TarMember
    frame: int

    def read_bytes(self) -> bytes:
        """Returns a TIFF file of this frame alone, with the same pixels.

        Raises:
            Exception: If the frame cannot be decoded. Pillow raises exceptions of many types.
        """
        with PILImage.open(io.BytesIO(_content(self.file)), formats=("TIFF",)) as picture:
            picture.seek(self.frame)
            compression = picture.info.get("compression", "raw")
            # A frame with losses would lose more if it were compressed again.
            lossless = compression if compression in _LOSSLESS else "tiff_adobe_deflate"
            stream = io.BytesIO()
            picture.save(stream, "TIFF", compression=lossless)
        return stream.getvalue()

    def __str__(self) -> str:
        return f"{self.file}, frame {self.frame}"


def num_frames(file: TarMember) -> int:
    """Returns the number of frames of a TIFF file. None is decoded.

    Raises:
        OSError: If the file cannot be read.
        UserError: If it is damaged or too large, or has too many frames.
    """
    if file.size > LARGEST_TIFF:
        raise UserError(f"TIFF too large: it has {file.size:,} bytes, more than {LARGEST_TIFF:,}")
    content = _content(file)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        raise UserError("broken TIFF: it does not begin as a TIFF")
    number = 0
    try:
        (directory,) = struct.unpack_from(f"{order}I", content, 4)
        # Each frame has a directory of fields of 12 bytes, and after it the offset of the next directory.
        while directory:
            number += 1
            if number > MOST_FRAMES:
                raise UserError(f"too many frames: the TIFF has more than {MOST_FRAMES:,}")
            (num_fields,) = struct.unpack_from(f"{order}H", content, directory)
            (directory,) = struct.unpack_from(f"{order}I", content, directory + 2 + 12 * num_fields)
    except struct.error as error:
        raise UserError(f"broken TIFF: {error}") from error
    return number


@lru_cache(maxsize=2)
def _content(file: TarMember) -> bytes:
    return file.read_bytes()
