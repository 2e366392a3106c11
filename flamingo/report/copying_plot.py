"""Plots of copy rates over the distance of the demonstration from the query."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flamingo.measure_rows import COPY_RATE, EXACT, REFERENCE_RATE, ROUGE_L, Measure
from flamingo.report.averages import main_decoding, mean_measures
from flamingo.report.style import BLUE, GREY, MUTED, OCHRE, Label, label_ends, new_figure, style, wrapped
from flamingo.results import SettingOfTask

#: In inches: the size of a panel.
_WIDTH, _HEIGHT = 6.2, 3.5
#: The number of letters in a line of a panel's title.
_TITLE_LETTERS = 44
#: The smallest upper end of the vertical axis: small rates look small.
_LEAST_TOP = 0.1
_PARTS = {EXACT: "equal words", ROUGE_L: "ROUGE-L of at least 0.9"}


@dataclass(frozen=True)
class _Line:
    """The rates of a line, and its look. Lines are shifted, so that their intervals stand beside each other."""

    name: str
    setting: SettingOfTask
    rate: str
    color: str
    marker: str
    dashes: str
    shift: float


def copying_figure(measures: Sequence[Measure]) -> Figure | None:
    """Returns the rates over distance: a row per task and selection of demonstrations, a panel per kind of equality.

    Each row shows the plain setting with the most shots, its blind control if it was run, and the reference rate.
    Several seeds are averaged. One decoding is drawn: greedy if it was run.

    Returns:
        The figure; None if no plain setting with images has copy rates.
    """
    measures = mean_measures(measure for measure in measures if measure.name in (COPY_RATE, REFERENCE_RATE))
    settings = _fullest_settings(measures)
    if not settings:
        return None
    of_lines: dict[tuple[SettingOfTask, str, str | None], list[Measure]] = {}
    for measure in measures:
        of_lines.setdefault((measure.setting, measure.name, measure.part), []).append(measure)
    parts = [part for part in _PARTS if any(measure.part == part for measure in measures)]
    with style():
        figure = new_figure(_WIDTH * len(parts), _HEIGHT * len(settings))
        axes = figure.subplots(len(settings), len(parts), squeeze=False)
        for row, setting in zip(axes, settings, strict=True):
            for ax, part in zip(row, parts, strict=True):
                lines = {}
                for line in _lines(setting):
                    points = of_lines.get((line.setting, line.rate, part), [])
                    if points:
                        lines[line] = points
                if lines:
                    _draw_panel(ax, setting, part, lines)
                else:
                    ax.set_axis_off()
    return figure


def _fullest_settings(measures: Sequence[Measure]) -> list[SettingOfTask]:
    """Returns the plain setting with the most shots of each task and series, in one decoding of the task."""
    plain = []
    for measure in measures:
        if measure.setting.control is None and measure.setting.shots > 0:
            plain.append(measure.setting)
    decodings = {}
    for task in dict.fromkeys(setting.task for setting in plain):
        decodings[task] = main_decoding(setting.decoding for setting in plain if setting.task == task)
    fullest: dict[tuple[str, str], SettingOfTask] = {}
    for setting in plain:
        if setting.decoding == decodings[setting.task]:
            series = (setting.task, setting.series)
            fullest[series] = max(setting, fullest.get(series, setting), key=lambda one: one.shots)
    return list(fullest.values())


def _lines(setting: SettingOfTask) -> list[_Line]:
    blind = replace(setting, control="blind")
    return [
        _Line("copy rate", setting, COPY_RATE, BLUE, "o", "-", 0.0),
        _Line("copy rate, blind", blind, COPY_RATE, GREY, "X", "--", 0.12),
        _Line("reference rate", setting, REFERENCE_RATE, OCHRE, "P", ":", -0.12),
    ]


def _draw_panel(ax: Axes, setting: SettingOfTask, part: str, lines: dict[_Line, list[Measure]]) -> None:
    labels = []
    top = _LEAST_TOP
    for line, points in lines.items():
        x = [(point.distance or 0) + line.shift for point in points]
        values = [point.value for point in points]
        intervals = [point.ci95 or (point.value, point.value) for point in points]
        lows = [low for low, _ in intervals]
        highs = [high for _, high in intervals]
        ax.vlines(x, lows, highs, color=line.color, lw=1.6, alpha=0.75)
        ax.plot(x, values, color=line.color, marker=line.marker, ls=line.dashes, ms=7, clip_on=False)
        labels.append(Label(x[-1], values[-1], line.name, line.color, bold=line.name == "copy rate"))
        top = max(top, 1.05 * max(highs))
    ax.set_xlim(0.5, setting.shots + 0.5)
    ax.set_ylim(0, top)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("distance from the query (1: the last demonstration)")
    ax.set_title(f"{wrapped(setting.task, _TITLE_LETTERS)}\n", loc="left", fontweight="bold", fontsize=13)
    names = [_PARTS[part], f"{setting.shots} shot{'' if setting.shots == 1 else 's'}", setting.series]
    if setting.decoding != "greedy":
        names.append(setting.decoding)
    subtitle = ", ".join(name for name in names if name)
    ax.text(0, 1.04, subtitle, transform=ax.transAxes, color=MUTED, in_layout=False)
    label_ends(ax, labels)
