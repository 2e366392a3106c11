"""Draws a data set of captioned images on the disk, like one of a user."""

import json
import random
from pathlib import Path

from flamingo.synthetic.drawing import draw
from flamingo.synthetic.grammar import caption, random_dialect
from flamingo.synthetic.scenes import random_scene
from flamingo.utils.io import write_text

#: The number of captions of an image, each in another dialect.
_CAPTIONS = 3


def draw_photographs(folder: Path, number: int, size: int, seed: int) -> list[Path]:
    """Draws images as JPEG files, with ``captions.jsonl`` in the same folder.

    Args:
        folder: The folder, which is created.
        number: The number of images.
        size: Their side in pixels.
        seed: The seed of the scenes.

    Returns:
        The paths of the images.
    """
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    dialects = [random_dialect(rng, "training") for _ in range(_CAPTIONS)]
    paths = []
    lines = []
    for index in range(number):
        scene = random_scene(rng, "training")
        path = folder / f"{index:04}.jpg"
        draw(scene, size).save(path, quality=90)
        captions = [caption(scene, dialect) for dialect in dialects]
        lines.append(json.dumps({"image": path.name, "captions": captions}))
        paths.append(path)
    write_text(folder / "captions.jsonl", "\n".join(lines) + "\n")
    return paths
