"""Plots of a training: losses and gates over steps."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    OCHRE,
    PURPLE,
    VERMILION,
    Label,
    label_ends,
    new_figure,
    style,
)
from flamingo.utils.errors import UserError

_LOSS_COLORS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, GREY)
_GATE_TITLES = {
    "attention": "Attention gates, tanh",
    "feedforward": "Feed-forward gates, tanh",
}
#: Keys of a record before the name of a data set.
_HELD_OUT, _BLIND = "held_out_loss/", "blind_held_out_loss/"
#: In inches.
_PANEL_WIDTH, _PANEL_HEIGHT = 4.5, 3.7

Point = tuple[int, float | int]
"""A step, and a value at it."""


def training_figure(history: Sequence[dict[str, Any]]) -> Figure:
    """Returns the loss over steps, in total and per data set, the held-out losses, and tanh of the gates by layer.

    Panels of what a history does not have are left out. Lines of more than 100 records are running means, with the
    records faint behind them.

    Raises:
        UserError: For a history without records.
    """
    if not history:
        raise UserError("a history of at least one record is needed")
    last_step = max(record["step"] for record in history) or 1
    panels: list[Callable[[Axes], list[Label]]] = [lambda ax: _draw_losses(ax, history)]
    if any(_is_held_out(name) for record in history for name in record):
        panels.append(lambda ax: _draw_held_out(ax, history))
    has_gates = any(record["gates"] for record in history)
    if has_gates:
        panels.append(lambda ax: _draw_gates(ax, history, "attention"))
        panels.append(lambda ax: _draw_gates(ax, history, "feedforward"))
    rows = 2 if len(panels) == 4 else 1
    columns = len(panels) // rows
    with style():
        figure = new_figure(_PANEL_WIDTH * columns, _PANEL_HEIGHT * rows)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        if has_gates:
            axes[-1].sharey(axes[-2])
        labels = [draw(ax) for draw, ax in zip(panels, axes, strict=True)]
        for ax, ends in zip(axes, labels, strict=True):  # when all limits are known: two axes share theirs
            ax.set_xlabel("step")
            ax.locator_params(axis="x", nbins=5)  # more of them run into each other
            ax.set_xlim(0, last_step)
            label_ends(ax, ends)
    return figure


def _draw_losses(ax: Axes, history: Sequence[dict[str, Any]]) -> list[Label]:
    losses: dict[str, list[Point]] = {}
    for record in history:
        for name, value in record.items():
            if name.startswith("loss/"):
                losses.setdefault(name, []).append((record["step"], value))
    labels = []
    for number, (name, points) in enumerate(sorted(losses.items())):
        color = _LOSS_COLORS[number % len(_LOSS_COLORS)]
        label = _draw_line(ax, points, color, name.removeprefix("loss/"))
        labels.append(label)
    if len(losses) != 1:  # the total of a single data set is the same line
        points = [(record["step"], record["loss"]) for record in history]
        labels.append(_draw_line(ax, points, INK, "total"))
    ax.set_title("Loss", loc="left", fontweight="bold", fontsize=13)
    return labels


def _is_held_out(name: str) -> bool:
    return name.startswith(_HELD_OUT) or name.startswith(_BLIND)


def _draw_held_out(ax: Axes, history: Sequence[dict[str, Any]]) -> list[Label]:
    """Returns the labels of the lines it draws: the held-out loss of each data set, and dashed the blind one."""
    losses: dict[str, list[Point]] = {}
    for record in history:
        for name, value in record.items():
            if _is_held_out(name):
                losses.setdefault(name, []).append((record["step"], value))
    names = sorted({name.split("/", 1)[1] for name in losses})
    labels = []
    for number, name in enumerate(names):
        color = _LOSS_COLORS[number % len(_LOSS_COLORS)]
        labels.append(_draw_line(ax, losses[_HELD_OUT + name], color, name))
        labels.append(_draw_line(ax, losses[_BLIND + name], color, f"{name}, blind", "--"))
    ax.set_title("Held-out loss", loc="left", fontweight="bold", fontsize=13)
    return labels


def _draw_gates(ax: Axes, history: Sequence[dict[str, Any]], part: str) -> list[Label]:
    gates: dict[str, list[Point]] = {}
    for record in history:
        for name, value in record["gates"].items():
            if name.endswith(f".{part}"):
                gates.setdefault(name, []).append((record["step"], value))
    color_map = matplotlib.colormaps["viridis"]
    last = len(gates) - 1
    label_every = math.ceil(len(gates) / 8)
    labels = []
    for number, (name, points) in enumerate(gates.items()):
        # The middle of the map, which can be seen on white and on black.
        shade = 0.2 + 0.55 * number / max(last, 1)
        color = matplotlib.colors.to_hex(color_map(shade))
        layer = name.removesuffix(f".{part}")
        label = _draw_line(ax, points, color, f"layer {layer}")
        # Of many layers every second one (third, ...) has a label, and the last one.
        if (last - number) % label_every == 0:
            labels.append(label)
    ax.axhline(0, color=MUTED, lw=0.8, zorder=1)
    title = _GATE_TITLES[part]
    ax.set_title(title, loc="left", fontweight="bold", fontsize=13)
    return labels


def _draw_line(ax: Axes, points: Sequence[Point], color: str, name: str, line: str = "-") -> Label:
    x = [float(step) for step, _ in points]
    y = [float(value) for _, value in points]
    width = len(y) // 50
    if width > 1:
        ax.plot(x, y, color=color, lw=0.8, alpha=0.25)
        y = _running_means(y, width)
    ax.plot(x, y, line, color=color, lw=1.8)
    return Label(x[-1], y[-1], name, color, bold=color == INK)


def _running_means(values: Sequence[float], width: int) -> list[float]:
    """Returns the mean of each value and the ``width`` - 1 values before it."""
    sums = list(accumulate(values, initial=0.0))
    means = []
    for end in range(1, len(sums)):
        start = max(end - width, 0)
        total = sums[end] - sums[start]
        means.append(total / (end - start))
    return means
