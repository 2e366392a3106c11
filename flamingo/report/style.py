"""What the plots share: colours for light and dark, labels beside their lines, and figures as files."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, MUTED, GRID = "#1b1f27", "#5d6673", "#dde1e7"
#: Okabe and Ito's hues, darkened until a label in them can be read on white.
BLUE, GREEN, VERMILION, PURPLE, OCHRE, GREY = "#0072b2", "#00805e", "#c24e00", "#a8457e", "#8f6200", "#6b7280"
#: The same on a dark page.
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
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,  # names are names, with whatever dollars
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
    """Our settings of matplotlib, for the time of the block only."""
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose axes make room for the labels beside them."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def frame(ax: Axes, color: str, width: float) -> None:
    """Axes of a picture: neither ticks nor grid, and a frame that is ``width`` points wide, or 0."""
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
    """Writes labels to the right of the axes, each as near its line's end as the others allow.

    To be called when the limits of the axes are set.
    """
    labels = sorted(labels, key=lambda label: label.y)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    figure = ax.figure
    assert isinstance(figure, Figure)
    rows, _ = ax.get_subplotspec().get_gridspec().get_geometry()  # type: ignore[union-attr]
    gap = 1.3 * size / 72 / (0.72 * figure.get_figheight() / rows)  # of the height of the axes
    places = spread([(label.y - low) / (high - low) for label in labels], gap)
    for label, place in zip(labels, places, strict=True):
        start = ((label.x - left) / (right - left), (label.y - low) / (high - low))
        ax.plot(
            [start[0], 1.03], [start[1], place], color=label.color, alpha=0.45, lw=0.9, ls=(0, (1, 1.5)), clip_on=False,
            zorder=1, transform=ax.transAxes, scalex=False, scaley=False,
        )  # fmt: skip
        ax.text(
            1.05, place, label.text, color=label.color, fontsize=size, va="center", transform=ax.transAxes,
            fontweight="bold" if label.bold else "normal",
        )  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The nearest places, in least squares, that keep the order and lie ``gap`` apart, within 0 to 1 if they fit.

    ``places`` ascend. Less their own multiple of the gap the wanted places ascend too, so this is
    isotonic regression, by pooling of adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(places):
        mean, size = place - i * gap, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    top = max(1 - gap * (len(places) - 1), 0.0)
    flat = [min(max(mean, 0.0), top) for mean, size in pools for _ in range(size)]
    return [place + i * gap for i, place in enumerate(flat)]


def png(figure: Figure) -> bytes:
    """On white, for papers and slides."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> tuple[str, str]:
    """The figure without a background, for a light page and for a dark one."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    light = dark = buffer.getvalue().decode()
    for color, on_dark in _DARK.items():
        dark = dark.replace(color, on_dark)
    return light, dark
