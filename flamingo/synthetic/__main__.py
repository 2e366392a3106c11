"""Draws a sheet of documents of the synthetic benchmark: ``python -m flamingo.synthetic docs/synthetic.png``."""

import random
import sys
from pathlib import Path
from textwrap import wrap

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from flamingo.synthetic.documents import TURNS, Turn
from flamingo.synthetic.drawing import draw
from flamingo.utils.io import atomic_file

#: The kind of document in each row.
ROWS = ("captions", "captions", "captions", "binding", "questions")
COLUMNS = 6
#: In pixels: side of an image, distance between images, height of the text below an image.
SIDE, MARGIN, TEXT_HEIGHT = 220, 18, 92


def sheet(seed: int) -> PILImage.Image:
    """Returns a page with a document in each row: its images, with prompts and answers below them."""
    rng = random.Random(seed)
    width = MARGIN + COLUMNS * (SIDE + MARGIN)
    height = MARGIN + len(ROWS) * (SIDE + TEXT_HEIGHT)
    page = PILImage.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=16)
    for row, kind in enumerate(ROWS):
        turns = TURNS[kind](rng, "training", COLUMNS)
        top = MARGIN + row * (SIDE + TEXT_HEIGHT)
        for column, turn in enumerate(turns):
            left = MARGIN + column * (SIDE + MARGIN)
            page.paste(draw(turn.scene, SIDE), (left, top))
            pen.multiline_text((left, top + SIDE + 6), _wrapped(turn), fill=(60, 60, 60), font=font, spacing=4)
    return page


def _wrapped(turn: Turn) -> str:
    """Returns the question, if there is one, and the answer."""
    prompt = (turn.prompt or "").removeprefix("Question: ").removesuffix("Answer:").strip()
    return "\n".join(wrap(f"{prompt} {turn.answer}".strip(), width=26))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with atomic_file(Path(sys.argv[1]), "wb") as stream:
        sheet(seed=4).save(stream, format="PNG", optimize=True)
