"""A document as the model gets it, drawn: tokens, the image that each sees, what is trained on, and its loss."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flamingo.report.style import BLUE, GREEN, GREY, INK, MUTED, OCHRE, PURPLE, VERMILION, frame, new_figure, style

#: Of images and of the tokens that see them, in turn.
_IMAGE_COLORS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE)
#: Characters in a line of tokens, and inches that one of them takes.
_COLUMNS, _CHARACTER = 96, 0.115
#: Height of a line in widths of a character: a token, and below it the bar of its loss.
_LINE = 4.4
#: Inches of a picture beside its fellows.
_PICTURE = 1.15


def document_figure(
    pictures: Sequence[Float[np.ndarray, "h w 3"]],
    tokens: Sequence[str],
    image_index: Sequence[int],
    trained: Sequence[bool],
    losses: Sequence[float],
) -> Figure:
    """A document's pictures, and its tokens in the colour of the picture that each sees, grey without one.

    Tokens that are trained on are dark, with a bar below for their loss, in nats, given what is before them.
    """
    lines = _wrapped([_shown(token) for token in tokens])
    bars = [loss if train else 0.0 for loss, train in zip(losses, trained, strict=True)]
    longest = max(1.0, *bars)
    heights = [_PICTURE * bool(pictures), _LINE * _CHARACTER * (len(lines) + 0.5)]
    width = max(_COLUMNS * _CHARACTER, 1.1 * _PICTURE * len(pictures))
    with style():
        figure = new_figure(width, sum(heights) + 0.3)
        grid = figure.add_gridspec(2, 1, height_ratios=heights)
        row = grid[0].subgridspec(1, int(width / _PICTURE / 1.1))
        for i, picture in enumerate(pictures):
            _draw_picture(figure.add_subplot(row[i]), picture, f"image {i}", _color_of(i))
        ax = figure.add_subplot(grid[1])
        ax.set_axis_off()
        ax.set(xlim=(0, width / _CHARACTER), ylim=(_LINE * (len(lines) + 0.5), 0))
        for number, line in enumerate(lines):
            for t, column, text in line:
                _draw_token(ax, column, _LINE * number, text, _color_of(image_index[t]), trained[t], bars[t] / longest)
        ax.text(0, _LINE * (len(lines) + 0.2), f"longest bar: a loss of {longest:.1f} nats", color=MUTED, fontsize=9)
    return figure


def _draw_picture(ax: Axes, picture: Float[np.ndarray, "h w 3"], name: str, color: str) -> None:
    ax.imshow(picture)
    ax.set_title(name, fontsize=10, color=color)
    frame(ax, color, 2.5)


def _draw_token(ax: Axes, x: int, y: float, text: str, color: str, trained: bool, bar: float) -> None:
    """At ``x``, ``y`` in characters; a ``bar`` of 1 is the longest."""
    width = len(text) - 0.15
    ax.add_patch(Rectangle((x, y), width, 2.2, color=color, alpha=0.18, lw=0))
    size = 0.97 * 72 * _CHARACTER / 0.602  # of a font whose characters are 0.602 of it wide
    ax.text(x, y + 1.15, text, va="center", family="DejaVu Sans Mono", fontsize=size, color=INK if trained else color)
    ax.add_patch(Rectangle((x, y + 2.3), width, 1.7 * bar, color=color, lw=0))


def _wrapped(texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Lines, at most ``_COLUMNS`` wide if no text is wider, of a text's number, its column, and itself."""
    lines: list[list[tuple[int, int, str]]] = [[]]
    column = 0
    for number, text in enumerate(texts):
        if column + len(text) > _COLUMNS and lines[-1]:
            lines.append([])
            column = 0
        lines[-1].append((number, column, text))
        column += len(text)
    return lines


def _shown(token: str) -> str:
    return token.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")


def _color_of(image: int) -> str:
    return GREY if image < 0 else _IMAGE_COLORS[image % len(_IMAGE_COLORS)]
