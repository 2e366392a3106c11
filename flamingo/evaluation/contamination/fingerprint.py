"""Pictures -> checksums of their files and pixels, and a perceptual hash of their low frequencies."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16
from PIL import Image as PILImage
from scipy.fft import dctn

from flamingo.data.document import Readable
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.transforms.pictures import frame_bytes, open_image
from flamingo.utils.errors import UserError

#: The side in pixels of the grey picture that is hashed.
_SIDE = 64
#: The lowest frequencies in each direction that the hash has.
_FREQUENCIES = 16
#: The bits of a hash. The first one belongs to the mean and is always 0.
BITS = _FREQUENCIES**2
#: The least standard deviation of the grey values, of 255, of a picture that has a hash. The frequencies of a flatter
#: picture are noise.
_FLAT = 4.0

Hash = UInt16[np.ndarray, "16"]
"""The 256 bits of a perceptual hash."""


@dataclass(frozen=True)
class Fingerprint:
    """What two pictures are compared by."""

    #: The checksum of the bytes of the picture's file.
    file: bytes
    #: The checksum of size and pixels of the upright RGB picture.
    pixels: bytes
    #: None for a flat picture, such as a white square. It is compared by its checksums alone.
    hash: Hash | None


def fingerprint_of(frame: Readable | str) -> Fingerprint:
    """Returns the fingerprint of a picture, whose file is read once.

    Raises:
        UserError: If the picture is missing or broken; the error names the file or the member of the shard.
    """
    try:
        content = frame_bytes(frame)
    except OSError as error:
        raise UserError(f"image {frame} cannot be read: {error}") from error
    picture = open_image(EmbeddedPicture(str(frame), content))
    size = f"{picture.width} {picture.height} ".encode()
    pixels = _checksum(size + picture.tobytes())
    return Fingerprint(_checksum(content), pixels, picture_hash(picture))


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def picture_hash(picture: PILImage.Image) -> Hash | None:
    """Returns the perceptual hash of a picture; None if it is flat.

    A bit is whether a coefficient of the cosine transform is above the median of all. Re-encoding and resizing change
    few bits; two photographs differ in about half of the bits.
    """
    grey = picture.convert("L").resize((_SIDE, _SIDE), PILImage.Resampling.BILINEAR)
    values = np.asarray(grey, dtype=np.float32)
    if values.std() < _FLAT:
        return None
    spectrum = dctn(values, norm="ortho")
    coefficients = spectrum[:_FREQUENCIES, :_FREQUENCIES].ravel()
    bits = coefficients > np.median(coefficients[1:])
    bits[0] = False
    return np.packbits(bits).view(np.uint16)
