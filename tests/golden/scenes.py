"""Drawn scenes with a file of captions: captioned images that need no data set."""

import json
import random
from pathlib import Path

from flamingo.synthetic.drawing import draw
from flamingo.synthetic.grammar import Dialect, caption
from flamingo.synthetic.scenes import random_scene


def write_scenes(folder: Path, split: str, count: int) -> Path:
    """Write ``count`` pictures, each with two captions, and return the JSON Lines file that lists them."""
    rng = random.Random(f"golden {split}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        scene = random_scene(rng, "training")
        file = f"{split}-{number:03}.png"
        draw(scene).save(folder / file)
        captions = [caption(scene), caption(scene, Dialect(article=1))]
        rows.append({"image": file, "captions": captions})
    listing = folder / f"{split}.jsonl"
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return listing
