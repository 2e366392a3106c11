"""Slopes of few-shot curves -> a thin line of each fit, and its gain per doubling of the shots as a text."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.axes import Axes

from flamingo.difference_rows import SLOPE, Difference
from flamingo.report.score_text import difference_text, interval_text
from flamingo.results import Score

#: In points: the distance of the first text from the axes, the height of a text, and its size.
_BELOW, _LINE, _SIZE = 46, 15, 10.5


def slopes_of(differences: Sequence[Difference], task: str, metric: str, decoding: str) -> dict[str, Difference]:
    """Returns series -> the slope of its curve."""
    slopes = {}
    for difference in differences:
        setting = difference.setting
        if difference.kind == SLOPE and (setting.task, difference.metric, setting.decoding) == (task, metric, decoding):
            slopes[setting.series] = difference
    return slopes


def fitted(slope: Difference, points: Sequence[Score]) -> list[float] | None:
    """Returns the values of the least-squares line at the slope's numbers of shots.

    Args:
        slope: The slope of a curve over log2(shots).
        points: The scores of the curve.

    Returns:
        The values; None if the curve lacks one of the numbers of shots.
    """
    values = {point.setting.shots: point.value for point in points}
    if any(shots not in values for shots in slope.shots):
        return None
    doublings = [math.log2(shots) for shots in slope.shots]
    mean = fmean(values[shots] for shots in slope.shots)
    middle = fmean(doublings)
    return [mean + slope.value * (doubling - middle) for doubling in doublings]


def slope_text(series: str, slope: Difference) -> str:
    """Returns the slope of a curve with its interval."""
    interval = interval_text(slope.interval)
    text = f"{series or 'few-shot'}: {difference_text(slope.value)} per doubling"
    return f"{text} ({interval})" if interval else text


def draw_slopes(
    ax: Axes, slopes: Mapping[str, Difference], series: Mapping[str, Sequence[Score]], colors: Mapping[str, str]
) -> None:
    """Draws the fits, and writes the slopes below the axes.

    Args:
        ax: The axes of the curves, whose ticks are all numbers of shots at equal distances.
        slopes: Series -> slope.
        series: Series -> the scores of the curve.
        colors: Series -> the colour of the curve.
    """
    all_shots = sorted({point.setting.shots for points in series.values() for point in points})
    lines = 0
    for name, slope in slopes.items():
        values = fitted(slope, series.get(name, ()))
        if values is None:
            continue
        x = [all_shots.index(shots) for shots in slope.shots]
        ax.plot(x, values, color=colors[name], lw=1.0, alpha=0.7, zorder=2)
        ax.annotate(
            slope_text(name, slope),
            (0, 0),
            (0, -_BELOW - _LINE * lines),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colors[name],
            fontsize=_SIZE,
            va="top",
        )
        lines += 1
