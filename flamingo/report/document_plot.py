"""A plot of a document: its images, its tokens, the image that each token sees, and the losses."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flamingo.report.style import BLUE, GREEN, GREY, INK, MUTED, OCHRE, PURPLE, VERMILION, frame, new_figure, style

#: The colours of images and of the tokens that see them, in turn.
_IMAGE_COLORS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE)
#: The number of characters in a line of tokens.
_COLUMNS = 96
#: The width of a character in inches.
_CHARACTER = 0.115
#: The height of a line in widths of a character: a token, and below it the bar of its loss.
_LINE = 4.4
#: The width of a picture in inches.
_PICTURE = 1.15


def document_figure(
    pictures: Sequence[Float[np.ndarray, "h w 3"]],
    tokens: Sequence[str],
    image_index: Sequence[int],
    trained: Sequence[bool],
    losses: Sequence[float],
) -> Figure:
    """Returns a document's pictures, and its tokens in the colour of the picture that each sees, grey without one.

    Tokens with a loss are dark. The bar below each shows its loss, in nats, given the tokens before it.

    Args:
        pictures: The pictures, with values from 0 to 1.
        tokens: The text of each token.
        image_index: The number of the picture that each token sees, -1 for none.
        trained: Whether each token has a loss.
        losses: The loss of each token in nats.
    """
    lines = _wrap([_visible(token) for token in tokens])
    bars = [loss if has_loss else 0.0 for loss, has_loss in zip(losses, trained, strict=True)]
    longest = max(1.0, *bars)
    text_height = _LINE * (len(lines) + 0.5)
    heights = [_PICTURE if pictures else 0.0, _CHARACTER * text_height]
    width = max(_COLUMNS * _CHARACTER, 1.1 * _PICTURE * len(pictures))
    with style():
        figure = new_figure(width, sum(heights) + 0.3)
        grid = figure.add_gridspec(2, 1, height_ratios=heights)
        picture_grid = grid[0].subgridspec(1, int(width / _PICTURE / 1.1))
        for number, picture in enumerate(pictures):
            ax = figure.add_subplot(picture_grid[number])
            _draw_picture(ax, picture, f"image {number}", _color_of(number))
        ax = figure.add_subplot(grid[1])
        ax.set_axis_off()
        ax.set(xlim=(0, width / _CHARACTER), ylim=(text_height, 0))
        for number, line in enumerate(lines):
            for token, column, text in line:
                _draw_token(
                    ax,
                    x=column,
                    y=_LINE * number,
                    text=text,
                    color=_color_of(image_index[token]),
                    trained=trained[token],
                    bar=bars[token] / longest,
                )
        mean = sum(bars) / max(1, sum(trained))
        legend = f"bars: the loss of each token; a full bar is {longest:.1f} nats, the mean {mean:.2f} nats"
        ax.text(0, _LINE * (len(lines) + 0.2), legend, color=MUTED, fontsize=9)
    return figure


def _draw_picture(ax: Axes, picture: Float[np.ndarray, "h w 3"], name: str, color: str) -> None:
    ax.imshow(picture)
    ax.set_title(name, fontsize=10, color=color)
    frame(ax, color, 2.5)


def _draw_token(
    ax: Axes,
    x: int,
    y: float,
    text: str,
    color: str,
    trained: bool,
    bar: float,
) -> None:
    """Draws a token at ``x``, ``y`` in characters. A ``bar`` of 1 is the longest."""
    width = len(text) - 0.15
    background = Rectangle((x, y), width, 2.2, color=color, alpha=0.18, lw=0)
    ax.add_patch(background)
    size = 0.97 * 72 * _CHARACTER / 0.602  # of a font whose characters are 0.602 of it wide
    ax.text(
        x,
        y + 1.15,
        text,
        va="center",
        family="DejaVu Sans Mono",
        fontsize=size,
        color=INK if trained else color,
    )
    loss_bar = Rectangle((x, y + 2.3), width, 1.7 * bar, color=color, lw=0)
    ax.add_patch(loss_bar)


def _wrap(texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Returns lines of at most ``_COLUMNS`` characters: for each text its number, its column, and the text."""
    lines: list[list[tuple[int, int, str]]] = [[]]
    column = 0
    for number, text in enumerate(texts):
        if column + len(text) > _COLUMNS and lines[-1]:
            lines.append([])
            column = 0
        lines[-1].append((number, column, text))
        column += len(text)
    return lines


def _visible(token: str) -> str:
    return token.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")


def _color_of(image: int) -> str:
    return GREY if image < 0 else _IMAGE_COLORS[image % len(_IMAGE_COLORS)]
