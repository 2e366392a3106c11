"""The folder ``pictures/`` of an evaluation: small copies of queries and demonstrations for the report."""

from collections.abc import Sequence
from pathlib import Path

from flamingo.data.transforms.pictures import open_image
from flamingo.evaluation.protocol import Example
from flamingo.utils.io import atomic_file
from flamingo.utils.names import picture_path

#: The largest width and height of a saved picture, in pixels.
_MAX_SIZE = 256


def save_pictures(folder: Path, task: str, examples: Sequence[Example]) -> None:
    """Saves each example's picture (the first frame of a video), at most 256 pixels wide and high.

    Its file is that of :func:`flamingo.utils.names.picture_path`. Existing files stay.
    """
    for example in examples:
        path = picture_path(folder, task, example.id)
        if not path.exists():
            picture = open_image(example.image.frames[0])
            picture.thumbnail((_MAX_SIZE, _MAX_SIZE))
            with atomic_file(path, "wb") as stream:
                picture.save(stream, format="PNG")
