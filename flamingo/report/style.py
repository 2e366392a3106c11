"""The style of all plots: colours for light and dark pages, labels at the ends of lines, and figures as files."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy.optimize import isotonic_regression

from flamingo.report.fonts import font_families, missing_letters_logged

INK, MUTED, GRID = "#1b1f27", "#5d6673", "#dde1e7"
#: Okabe and Ito's hues, darkened so that labels are readable on white.
BLUE, GREEN, VERMILION, PURPLE, OCHRE, GREY = "#0072b2", "#00805e", "#c24e00", "#a8457e", "#8f6200", "#6b7280"
#: The colours on a dark page.
_DARK = {
    INK: "#e7eaef",
    MUTED: "#a2abb8",
    GRID: "#333a45",
    BLUE: "#56b4e9",
    GREEN: "#35c79b",
    VERMILION: "#ff8f52",
    PURPLE: "#e793c4",
    OCHRE: "#e3b341",
    GREY: "#98a2b0",
}
_STYLE: Any = {
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,  # names may contain dollars
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "lines.linewidth": 2.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "flamingo",  # equal results make equal files
}


@contextmanager
def style() -> Iterator[None]:
    """Sets our settings of matplotlib in the block."""
    with matplotlib.rc_context(_STYLE | {"font.family": font_families()}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, in inches, whose axes leave room for labels on their right."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def frame(ax: Axes, color: str, width: float) -> None:
    """Removes ticks and grid from the axes of a picture, and draws a frame that is ``width`` points wide; 0: none."""
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=width > 0, color=color, linewidth=width)


@dataclass(frozen=True)
class Label:
    """A text for the end of a line, at data coordinates ``x``, ``y``."""

    x: float
    y: float
    text: str
    color: str
    bold: bool = False


def label_ends(ax: Axes, labels: Sequence[Label], size: float = 11.0) -> None:
    """Writes labels to the right of the axes, each as near to its line's end as the others allow.

    The limits of the axes must be set before.
    """
    labels = sorted(labels, key=lambda label: label.y)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    figure = ax.figure
    assert isinstance(figure, Figure)
    rows, _ = ax.get_subplotspec().get_gridspec().get_geometry()  # type: ignore[union-attr]
    gap = 1.3 * size / 72 / (0.72 * figure.get_figheight() / rows)  # of the height of the axes
    ends = [(label.y - low) / (high - low) for label in labels]
    for label, end, height in zip(labels, ends, spread_labels(ends, gap), strict=True):
        start = (label.x - left) / (right - left)
        ax.plot(
            [start, 1.03],
            [end, height],
            color=label.color,
            alpha=0.45,
            lw=0.9,
            ls=(0, (1, 1.5)),
            clip_on=False,
            zorder=1,
            transform=ax.transAxes,
            scalex=False,
            scaley=False,
        )
        weight = "bold" if label.bold else "normal"
        ax.text(
            1.05,
            height,
            label.text,
            color=label.color,
            fontsize=size,
            va="center",
            transform=ax.transAxes,
            fontweight=weight,
        )


def spread_labels(heights: Sequence[float], gap: float) -> list[float]:
    """Returns the nearest heights (least squares) in the same order and ``gap`` apart, in [0, 1] if they fit.

    ``heights`` increase. So do the wanted heights after their multiples of the gap are subtracted: this is isotonic
    regression.
    """
    if not heights:
        return []
    gaps = gap * np.arange(len(heights))
    ascending = isotonic_regression(np.array(heights) - gaps).x
    top = max(1 - gaps[-1], 0.0)
    return (np.clip(ascending, 0.0, top) + gaps).tolist()


def wrapped(name: str, letters: int) -> str:
    """Returns a name in lines of at most ``letters`` letters, which end at spaces and underscores if possible."""
    lines = textwrap.wrap(name.replace("_", "_ "), letters)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def png(figure: Figure) -> bytes:
    """Returns the figure as PNG on white, for papers and slides."""
    buffer = io.BytesIO()
    with style(), missing_letters_logged():
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> tuple[str, str]:
    """Returns the figure as SVG without a background, for a light page and for a dark one."""
    buffer = io.BytesIO()
    with style(), missing_letters_logged():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    light = dark = buffer.getvalue().decode()
    for color, on_dark in _DARK.items():
        dark = dark.replace(color, on_dark)
    return light, dark
