"""Few-shot curves, and what training looked like."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.report.averages import in_order, main_decoding, mean_over_seeds
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
from flamingo.results import Score
from flamingo.utils.errors import UserError

#: The metrics that have a panel, in the order of their weight; the others stand in the table.
HEADLINES = ("exact_match", "attribute_accuracy", "CIDEr")
TIMES_100 = "\N{MULTIPLICATION SIGN} 100"
#: Colour, marker and line of a series. Shape and line tell them apart where colour does not.
_SERIES = {
    "": (BLUE, "o", "-"),
    "RICES": (GREEN, "s", "-"),
    "text only": (BLUE, "D", "none"),
    "blind": (GREY, "X", "--"),
    "shuffled images": (VERMILION, "^", "--"),
    "shuffled captions": (PURPLE, "v", "--"),
    "copied caption": (OCHRE, "P", "--"),
}
_OTHER_SERIES = (MUTED, "*", ":")


def headline_metrics(scores: Sequence[Score], task: str) -> list[str]:
    """The task's metrics that are worth a panel, the most telling first; at least one."""
    found = {score.metric: None for score in scores if score.setting.task == task}
    return [metric for metric in HEADLINES if metric in found] or list(found)[:1]


def metric_name(metric: str) -> str:
    """As it is written on axes and in tables."""
    return metric.replace("_order_std", ", std over orders").replace("_", " ")


def few_shot_figure(scores: Sequence[Score]) -> Figure:
    """Score (times 100) over shots with 95% intervals: a panel per task and headline metric, a line per series.

    Several seeds are averaged (:func:`mean_over_seeds`). One decoding is drawn: greedy where it was run.
    """
    scores = mean_over_seeds(scores)
    tasks = list(dict.fromkeys(score.setting.task for score in scores))
    panels = [(task, metric) for task in tasks for metric in headline_metrics(scores, task)]
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure = new_figure(4.5 * columns, 3.5 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, (task, metric) in zip(axes, panels, strict=False):
            _draw_panel(ax, task, metric, [s for s in scores if s.setting.task == task and s.metric == metric])
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
    return figure


def _draw_panel(ax: Axes, task: str, metric: str, scores: Sequence[Score]) -> None:
    decoding = main_decoding(score.setting.decoding for score in scores)
    scores = in_order(score for score in scores if score.setting.decoding == decoding)
    # Numbers of shots grow in powers and begin at zero, so that they are set at equal distances.
    shots = sorted({score.setting.shots for score in scores})
    lines: dict[str, list[Score]] = {}
    for score in scores:
        lines.setdefault(score.setting.series, []).append(score)
    controls = [name for name, points in lines.items() if points[0].setting.control]
    top = 105 * max(end for s in scores for end in (s.value, *(s.ci95 or ()))) or 1.0
    labels = []
    for name, points in reversed(lines.items()):
        # A control of retrieved demonstrations looks like that of random ones, but for its empty marker.
        color, marker, line = _SERIES.get(name.removesuffix(", RICES"), _OTHER_SERIES)
        plain, text_only = name == "", name == "text only"
        hollow = text_only or name.endswith(", RICES")
        # Controls are often run at the same shots and come out alike: side by side they can be told apart.
        step = min(0.1, 0.6 / len(controls)) if controls else 0.0
        aside = step * (controls.index(name) - (len(controls) - 1) / 2) if name in controls else 0.0
        x = [float(shots.index(point.setting.shots) + aside) for point in points]
        y = [100 * point.value for point in points]
        low, high = ([100 * (p.ci95 or (p.value, p.value))[end] for p in points] for end in (0, 1))
        ax.vlines(x, low, high, color=color, lw=1.6, alpha=0.75)
        if plain:
            ax.fill_between(x, low, high, color=color, alpha=0.14, lw=0)
        ax.plot(
            x, y, color=color, marker=marker, ls=line, lw=2.6 if plain else 1.6, ms=7, mew=2 if hollow else 1,
            mfc="none" if hollow else color, zorder=4 if plain else 3, clip_on=False,
        )  # fmt: skip
        if text_only:  # a point at the other end, where no line runs to its left
            upwards = "bottom" if y[0] < top / 2 else "top"
            ax.annotate(
                name, (0, y[0]), (-7, 0), textcoords="offset points",
                color=color, fontsize=11, rotation=90, ha="right", va=upwards,
            )  # fmt: skip
        else:
            labels.append(Label(x[-1], y[-1], name or "few-shot", color, bold=plain))
    ax.set_xticks(range(len(shots)), [str(count) for count in shots])
    # Room for its name, which is as wide whatever the number of shots.
    ax.set_xlim(-0.16 * max(len(shots), 4) if "text only" in lines else -0.25, max(len(shots) - 1, 0.5) + 0.25)
    ax.set_ylim(0, top)
    ax.set_xlabel("shots")
    ax.set_title(f"{task}\n", loc="left", fontweight="bold", fontsize=13)
    subtitle = f"{metric_name(metric)} {TIMES_100}" + ("" if decoding == "greedy" else f", {decoding}")
    # The empty line of the title keeps its place; in the layout a long name would take the width of the axes.
    ax.text(0, 1.04, subtitle, transform=ax.transAxes, color=MUTED, in_layout=False)
    label_ends(ax, labels)


def training_figure(history: Sequence[dict[str, Any]]) -> Figure:
    """Loss over steps, in all and per data set; tanh of the attention and feed-forward gates, a line per layer.

    Lines of more than 100 records are running means, with the records faint behind them.
    """
    if not history:
        raise UserError("a history of at least one record is needed")
    with style():
        figure = new_figure(13.5, 3.7)
        loss, attention, feedforward = figure.subplots(1, 3)
        feedforward.sharey(attention)
        labels = [
            (loss, _draw_losses(loss, history)),
            (attention, _draw_gates(attention, history, "attention")),
            (feedforward, _draw_gates(feedforward, history, "feedforward")),
        ]
        for ax, ends in labels:  # when all limits are known: two axes share theirs
            ax.set_xlabel("step")
            ax.locator_params(axis="x", nbins=5)  # more of them run into each other
            ax.set_xlim(0, max(record["step"] for record in history) or 1)
            label_ends(ax, ends)
    return figure


def _draw_losses(ax: Axes, history: Sequence[dict[str, Any]]) -> list[Label]:
    names = sorted({key for record in history for key in record if key.startswith("loss/")})
    colors = [BLUE, VERMILION, GREEN, PURPLE, OCHRE, GREY]
    labels = []
    for i, name in enumerate(names):
        points = [(r["step"], r[name]) for r in history if name in r]
        labels.append(_draw_line(ax, points, colors[i % len(colors)], name.removeprefix("loss/")))
    if len(names) != 1:  # of a single data set the total is the same line
        labels.append(_draw_line(ax, [(r["step"], r["loss"]) for r in history], INK, "total"))
    ax.set_title("Loss", loc="left", fontweight="bold", fontsize=13)
    return labels


def _draw_gates(ax: Axes, history: Sequence[dict[str, Any]], part: str) -> list[Label]:
    names = list(dict.fromkeys(name for r in history for name in r["gates"] if name.endswith(f".{part}")))
    ramp = matplotlib.colormaps["viridis"]
    labels = []
    for i, name in enumerate(names):
        # The middle of the map, which can be seen on white and on black.
        color = matplotlib.colors.to_hex(ramp(0.2 + 0.55 * i / max(len(names) - 1, 1)))
        points = [(r["step"], r["gates"][name]) for r in history if name in r["gates"]]
        label = _draw_line(ax, points, color, f"layer {name.removesuffix(f'.{part}')}")
        # Of many layers every second one (third, ...) is named.
        if (len(names) - 1 - i) % -(-len(names) // 8) == 0:
            labels.append(label)
    ax.axhline(0, color=MUTED, lw=0.8, zorder=1)
    title = {"attention": "Attention gates, tanh", "feedforward": "Feed-forward gates, tanh"}[part]
    ax.set_title(title, loc="left", fontweight="bold", fontsize=13)
    return labels


def _draw_line(ax: Axes, points: Sequence[tuple[int, float | int]], color: str, name: str) -> Label:
    x, y = [float(step) for step, _ in points], [float(value) for _, value in points]
    width = len(y) // 50
    if width > 1:
        ax.plot(x, y, color=color, lw=0.8, alpha=0.25)
        sums = list(accumulate(y, initial=0.0))
        y = [(sums[i + 1] - sums[max(i + 1 - width, 0)]) / min(i + 1, width) for i in range(len(y))]
    ax.plot(x, y, color=color, lw=1.8)
    return Label(x[-1], y[-1], name, color, bold=color == INK)
