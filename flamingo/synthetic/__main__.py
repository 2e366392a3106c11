"""Draws a sheet of documents of the synthetic benchmark, a row each: python -m flamingo.synthetic docs/synthetic.png"""

import random
import sys
from pathlib import Path
from textwrap import wrap

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from flamingo.synthetic.documents import TURNS, Turn
from flamingo.synthetic.drawing import draw
from flamingo.utils.io import atomic_file

ROWS = ("captions", "captions", "captions", "binding", "questions")
COLUMNS, SIDE, MARGIN, CAPTION = 6, 220, 18, 92


def sheet(seed: int) -> PILImage.Image:
    """Pictures of five documents with what is asked and answered below each."""
    rng = random.Random(seed)
    width, height = MARGIN + COLUMNS * (SIDE + MARGIN), MARGIN + len(ROWS) * (SIDE + CAPTION)
    page = PILImage.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    for row, kind in enumerate(ROWS):
        for column, turn in enumerate(TURNS[kind](rng, "training", COLUMNS)):
            left, top = MARGIN + column * (SIDE + MARGIN), MARGIN + row * (SIDE + CAPTION)
            page.paste(draw(turn.scene, SIDE), (left, top))
            pen.multiline_text((left, top + SIDE + 6), _words(turn), fill=(60, 60, 60), font=font, spacing=4)
    return page


def _words(turn: Turn) -> str:
    asked = turn.prompt.removeprefix("Question: ").removesuffix("Answer:").removesuffix("Output:").strip()
    return "\n".join(wrap(f"{asked} {turn.answer}".strip(), 26))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with atomic_file(Path(sys.argv[1]), "wb") as stream:
        sheet(seed=4).save(stream, format="PNG", optimize=True)
