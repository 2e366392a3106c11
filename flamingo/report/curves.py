"""Plots of a run's scores over shots."""

import math
import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.difference_rows import Difference
from flamingo.headline_metrics import LOWER_IS_BETTER, headlines
from flamingo.report.averages import in_order, main_decoding, mean_over_seeds
from flamingo.report.slopes import draw_slopes, slopes_of
from flamingo.report.style import (
    BLUE,
    GREEN,
    GREY,
    MUTED,
    OCHRE,
    PURPLE,
    VERMILION,
    Label,
    label_ends,
    new_figure,
    style,
    wrapped,
)
from flamingo.results import Score

#: Colour, marker and line of a series. Marker and line distinguish series for readers who cannot see the colours.
_SERIES = {
    "": (BLUE, "o", "-"),
    "RICES": (GREEN, "s", "-"),
    "RICES by question": (PURPLE, ">", "-"),
    "RICES by caption": (OCHRE, "H", "-"),
    "RICES by sum": (VERMILION, "*", "-"),
    "text only": (BLUE, "D", "none"),
    "blind": (GREY, "X", "--"),
    "shuffled images": (VERMILION, "^", "--"),
    "shuffled captions": (PURPLE, "v", "--"),
    "described": (GREEN, "d", "--"),
    "copied caption": (OCHRE, "P", "--"),
    "nearest caption": (OCHRE, "<", ":"),
    "consensus caption": (OCHRE, "p", ":"),
    "majority answer": (OCHRE, "h", ":"),
}
#: The end of the name of a control with retrieved demonstrations.
_RETRIEVED = re.compile(r", RICES( by \w+)?$")
_OTHER_SERIES = (MUTED, "*", ":")
#: In inches: the width of a figure, and of a letter of a name on the right of the axes.
_WIDTH, _LETTER = 13.5, 0.095
#: The number of letters in a line of a panel's title.
_TITLE_LETTERS = 36


def headline_metrics(scores: Sequence[Score], task: str) -> list[str]:
    """Returns the task's metrics that have a panel, the most informative first; at least one."""
    return headlines(score.metric for score in scores if score.setting.task == task)


def metric_name(metric: str) -> str:
    """Returns the metric's name on axes and in tables."""
    base = metric.removesuffix("_order_std")
    name = base.replace("_", " ")
    if base in LOWER_IS_BETTER:
        name += ", lower is better"
    if base != metric:
        name += ", std over orders"
    return name


def few_shot_figure(scores: Sequence[Score], differences: Sequence[Difference] = ()) -> Figure:
    """Returns scores over shots, with intervals: a panel per task and headline metric, a line per series.

    Several seeds are averaged (:func:`mean_over_seeds`). One decoding is drawn: greedy if it was run.

    Args:
        scores: The scores of a run.
        differences: Those of them that are slopes are drawn as thin lines, and written below the panels.
    """
    scores = mean_over_seeds(scores)
    panels: dict[tuple[str, str], list[Score]] = {}
    for task in dict.fromkeys(score.setting.task for score in scores):
        for metric in headline_metrics(scores, task):
            panels[task, metric] = []
    for score in scores:
        panel = (score.setting.task, score.metric)
        if panel in panels:
            panels[panel].append(score)
    width = _panel_width(scores)
    columns = max(1, min(int(_WIDTH / width), len(panels)))
    if len(panels) == 4:
        columns = min(2, columns)
    rows = math.ceil(len(panels) / columns)
    with style():
        figure = new_figure(width * columns, 3.5 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, (panel, panel_scores) in zip(axes, panels.items(), strict=False):
            task, metric = panel
            _draw_panel(ax, task, metric, panel_scores, differences)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
    return figure


def _panel_width(scores: Sequence[Score]) -> float:
    """Returns the width of a panel in inches, including its axes and the names of its series."""
    longest = max(len(score.setting.series) for score in scores)
    return max(4.5, 2.8 + _LETTER * longest)


def _draw_panel(ax: Axes, task: str, metric: str, scores: Sequence[Score], differences: Sequence[Difference]) -> None:
    decoding = main_decoding(score.setting.decoding for score in scores)
    scores = in_order(score for score in scores if score.setting.decoding == decoding)
    series: dict[str, list[Score]] = {}
    for score in scores:
        series.setdefault(score.setting.series, []).append(score)
    # Numbers of shots grow in powers and begin at zero: draw them at equal distances.
    shots = sorted({score.setting.shots for score in scores})
    top = 1.05 * max(upper_end(score) for score in scores) or 1.0
    offsets = _offsets(series)
    labels = []
    colors = {}
    for name, points in reversed(series.items()):
        offset = offsets.get(name, 0.0)
        x = []
        for point in points:
            position = shots.index(point.setting.shots)
            x.append(float(position + offset))
        color = colors[name] = _draw_series(ax, name, x, points)
        if name == "text only":
            _label_text_only(ax, points[0].value, top, color)
            continue
        label = Label(
            x[-1],
            points[-1].value,
            name or "few-shot",
            color,
            bold=name == "",
        )
        labels.append(label)
    ax.set_xticks(range(len(shots)), [str(count) for count in shots])
    # Room for the label of "text only", which is as wide whatever the number of shots.
    left = -0.16 * max(len(shots), 4) if "text only" in series else -0.25
    right = max(len(shots) - 1, 0.5) + 0.25
    ax.set_xlim(left, right)
    ax.set_ylim(0, top)
    ax.set_xlabel("shots")
    title = wrapped(task, _TITLE_LETTERS)
    ax.set_title(f"{title}\n", loc="left", fontweight="bold", fontsize=13)
    subtitle = metric_name(metric)
    if decoding != "greedy":
        subtitle += f", {decoding}"
    # The empty line of the title keeps its place; in the layout a long name would take the width of the axes.
    ax.text(
        0,
        1.04,
        subtitle,
        transform=ax.transAxes,
        color=MUTED,
        in_layout=False,
    )
    draw_slopes(ax, slopes_of(differences, task, metric, decoding), series, colors)
    label_ends(ax, labels)


def upper_end(score: Score) -> float:
    """Returns the upper end of the score's interval, or its value if that is larger."""
    if score.ci95 is None:
        return score.value
    return max(score.value, *score.ci95)


def _offsets(series: Mapping[str, Sequence[Score]]) -> dict[str, float]:
    """Returns the horizontal offset of each control: controls often have the same shots and equal scores."""
    controls = [name for name, points in series.items() if points[0].setting.control is not None]
    step = min(0.1, 0.6 / len(controls)) if controls else 0.0
    middle = (len(controls) - 1) / 2
    offsets = {}
    for number, name in enumerate(controls):
        offsets[name] = step * (number - middle)
    return offsets


def _draw_series(ax: Axes, name: str, x: Sequence[float], points: Sequence[Score]) -> str:
    """Draws the line, the points and their intervals.

    Returns:
        The colour.
    """
    # A control of retrieved demonstrations looks like that of random ones, except for its empty marker.
    color, marker, line = _SERIES.get(_RETRIEVED.sub("", name), _OTHER_SERIES)
    plain = name == ""
    hollow = name == "text only" or _RETRIEVED.search(name) is not None
    values = []
    lows = []
    highs = []
    for point in points:
        low, high = point.ci95 or (point.value, point.value)
        values.append(point.value)
        lows.append(low)
        highs.append(high)
    ax.vlines(x, lows, highs, color=color, lw=1.6, alpha=0.75)
    if plain:
        ax.fill_between(x, lows, highs, color=color, alpha=0.14, lw=0)
    ax.plot(
        x,
        values,
        color=color,
        marker=marker,
        ls=line,
        lw=2.6 if plain else 1.6,
        ms=7,
        mew=2 if hollow else 1,
        mfc="none" if hollow else color,
        zorder=4 if plain else 3,
        clip_on=False,
    )
    return color


def _label_text_only(ax: Axes, y: float, top: float, color: str) -> None:
    """Writes the label of a single point at 0 shots to its left, where no line runs."""
    ax.annotate(
        "text only",
        (0, y),
        (-7, 0),
        textcoords="offset points",
        color=color,
        fontsize=11,
        rotation=90,
        ha="right",
        va="bottom" if y < top / 2 else "top",
    )
