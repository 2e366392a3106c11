"""The scores of variants -> a plot: a panel for each task, a line for each variant."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.report.comparison import VariantScore
from flamingo.report.comparison_tables import panels
from flamingo.report.curves import metric_name
from flamingo.report.style import BLUE, GREY, MUTED, new_figure, style, wrapped

#: The number of panels in a row.
_COLUMNS = 3
#: The number of letters in a line of a variant's name, and of a panel's title.
_NAME_LETTERS, _TITLE_LETTERS = 36, 28
#: In inches: the height of a line of a name, and the distance between two variants.
_LINE, _GAP = 0.2, 0.14


def comparison_figure(rows: Sequence[VariantScore], baseline: str) -> Figure:
    """Returns a panel per task: means of its first metric at the most shots, intervals, and each seed."""
    all_panels = panels(rows)
    names = list(dict.fromkeys(row.variant for row in rows))
    labels = [wrapped(name, _NAME_LETTERS) for name in names]
    columns = min(_COLUMNS, len(all_panels))
    lines = math.ceil(len(all_panels) / columns)
    most_lines = max(label.count("\n") + 1 for label in labels)
    with style():
        height = 1.3 + (_LINE * most_lines + _GAP) * len(names)
        figure = new_figure(3.2 + 3.6 * columns, height * lines)
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax, panel in zip(axes.flatten(), all_panels, strict=False):
            _draw_panel(ax, panel, names, baseline)
        for ax in axes.flatten()[len(all_panels) :]:
            ax.set_axis_off()
        axes[0][0].set_yticks(range(len(names)), labels)
        axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _draw_panel(ax: Axes, panel: Sequence[VariantScore], names: Sequence[str], baseline: str) -> None:
    for row in panel:
        _draw_row(ax, row, names.index(row.variant), row.variant == baseline)
    first = panel[0]
    title = wrapped(first.task, _TITLE_LETTERS)
    ax.set_title(title, loc="left", fontweight="bold", fontsize=12)
    ax.set_xlabel(f"{metric_name(first.metric)}, {first.shots} shots")
    ax.grid(axis="x")
    ax.locator_params(axis="x", nbins=5)


def _draw_row(ax: Axes, row: VariantScore, y: int, is_baseline: bool) -> None:
    color = BLUE if is_baseline else GREY
    if is_baseline:
        ax.axvline(row.mean, color=BLUE, lw=0.9, alpha=0.6, zorder=1)
    if row.interval is not None:
        low, high = row.interval
        ax.hlines(y, low, high, color=color, lw=2)
    ax.plot(row.values, [y] * len(row.values), "|", color=MUTED, ms=11, mew=1.2)
    ax.plot(row.mean, y, "o", color=color, ms=7)
