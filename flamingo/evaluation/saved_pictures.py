"""The folder ``pictures/`` of an evaluation: small copies of queries and demonstrations for the report."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image as PILImage

from flamingo.data.document import Image
from flamingo.data.transforms.pictures import open_image
from flamingo.evaluation.protocol import Example
from flamingo.utils.io import atomic_file
from flamingo.utils.names import picture_path

#: The largest width and height of a saved picture, in pixels.
_MAX_SIZE = 256


def save_pictures(folder: Path, task: str, examples: Sequence[Example]) -> None:
    """Saves each example's picture (the first frame of a video), at most 256 pixels wide and high.

    Several pictures of an example are saved as one, side by side.

    Its file is that of :func:`flamingo.utils.names.picture_path`. Existing files stay.
    """
    for example in examples:
        path = picture_path(folder, task, example.id)
        if not path.exists():
            picture = _side_by_side([_small(image) for image in example.images])
            with atomic_file(path, "wb") as stream:
                picture.save(stream, format="PNG")


def _small(image: Image) -> PILImage.Image:
    picture = open_image(image.frames[0])
    picture.thumbnail((_MAX_SIZE, _MAX_SIZE))
    return picture


def _side_by_side(pictures: Sequence[PILImage.Image]) -> PILImage.Image:
    """Returns the pictures as one, aligned at the top; a single picture unchanged."""
    if len(pictures) == 1:
        return pictures[0]
    width = sum(picture.width for picture in pictures)
    row = PILImage.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
