"""Pictures that look as different from each other as photographs, and copies of them."""

import io

import numpy as np
from PIL import Image as PILImage

WORDS = [
    f"{first}{second}"
    for first in ("ba", "do", "ki", "lu", "me", "ni", "pa", "ro", "su", "te")
    for second in "bcdfgklmnprst"
]


def drawn(number, width=96, height=72):
    """A picture that is a function of its number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)
    return PILImage.fromarray(coarse).resize((width, height), PILImage.Resampling.BICUBIC)


def file_of(picture, format="JPEG", **options):
    """The bytes of a file."""
    content = io.BytesIO()
    picture.save(content, format, **options)
    return content.getvalue()


def resized(picture, share):
    """The picture in another size."""
    size = (round(share * picture.width), round(share * picture.height))
    return picture.resize(size, PILImage.Resampling.LANCZOS)


def sentence(number, words=10):
    """A caption that is a function of its number."""
    rng = np.random.default_rng([7, number])
    return " ".join(rng.choice(WORDS, words)).capitalize() + "."
