"""Plots of attention at the last token of prompts, by layer: gated blocks, and shares of the parts of a prompt."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.measure_rows import (
    DEMONSTRATION_IMAGE,
    DEMONSTRATION_TEXT,
    FIRST_TOKEN,
    GATED_ENTROPY,
    GATED_NORM,
    QUERY_IMAGE,
    QUERY_TEXT,
    SELF_ATTENTION,
    Measure,
)
from flamingo.report.averages import main_decoding
from flamingo.report.style import BLUE, GREEN, GREY, OCHRE, VERMILION, new_figure, style
from flamingo.results import SettingOfTask

_MEASURES = (GATED_ENTROPY, GATED_NORM, SELF_ATTENTION)
#: The parts of a prompt in the order of the stack: name and colour.
_PARTS = {
    FIRST_TOKEN: ("first token", GREY),
    DEMONSTRATION_TEXT: ("demonstrations, text", BLUE),
    DEMONSTRATION_IMAGE: ("demonstrations, images", GREEN),
    QUERY_TEXT: ("query, text", VERMILION),
    QUERY_IMAGE: ("query, image", OCHRE),
}
_TITLES = {
    GATED_ENTROPY: "Gated attention: entropy",
    GATED_NORM: "Gated attention: norm",
    SELF_ATTENTION: "Self-attention: shares",
}
#: In inches.
_PANEL_WIDTH, _PANEL_HEIGHT = 4.5, 3.7


def attention_measures_figure(measures: Sequence[Measure]) -> Figure | None:
    """Returns a row of panels for each task, at its largest number of shots; None without measures of attention.

    Entropy and norm have their 95% intervals over queries. Several seeds are averaged, and so are the ends of their
    intervals. Shares are summed over the demonstrations.
    """
    of_task: dict[str, list[Measure]] = {}
    for measure in measures:
        if measure.name in _MEASURES:
            of_task.setdefault(measure.setting.task, []).append(measure)
    if not of_task:
        return None
    rows = []
    for task, measures_of_task in of_task.items():
        rows.append((task, _of_most_shots(measures_of_task)))
    names = [name for name in _MEASURES if any(measure.name == name for _, row in rows for measure in row)]
    with style():
        figure = new_figure(_PANEL_WIDTH * len(names), _PANEL_HEIGHT * len(rows) + 0.5)
        axes = figure.subplots(len(rows), len(names), squeeze=False)
        for axes_of_row, (task, row) in zip(axes, rows, strict=True):
            for ax, name in zip(axes_of_row, names, strict=True):
                _draw_panel(ax, name, [measure for measure in row if measure.name == name])
            setting = row[0].setting
            axes_of_row[0].set_ylabel(f"{task}\n{setting.shots} shots{_kind(setting)}")
        handles, labels = axes[0, -1].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower right", ncols=len(labels), frameon=False, fontsize=11)
    return figure


def _of_most_shots(measures: Sequence[Measure]) -> list[Measure]:
    """Returns the measures of the largest number of shots, of random demonstrations if there are any, of all seeds."""
    decoding = main_decoding(measure.setting.decoding for measure in measures)
    measures = [measure for measure in measures if measure.setting.decoding == decoding]
    most = max(measure.setting.shots for measure in measures)
    measures = [measure for measure in measures if measure.setting.shots == most]
    plain = [measure for measure in measures if measure.setting.series == ""] or measures
    setting = plain[0].setting
    return [measure for measure in plain if measure.setting == setting]


def _kind(setting: SettingOfTask) -> str:
    return f", {setting.series}" if setting.series else ""


def _draw_panel(ax: Axes, name: str, measures: Sequence[Measure]) -> None:
    layers = sorted({measure.layer for measure in measures if measure.layer is not None})
    if name == SELF_ATTENTION:
        _draw_shares(ax, layers, measures)
    else:
        _draw_line(ax, layers, measures)
    ax.set_title(_TITLES[name], loc="left", fontweight="bold", fontsize=13)
    ax.set_xlabel("layer")
    ax.set_xticks(layers[:: math.ceil(len(layers) / 8)])
    ax.set_ylim(0, 1 if name == GATED_ENTROPY else None)


def _draw_line(ax: Axes, layers: Sequence[int], measures: Sequence[Measure]) -> None:
    values = []
    for layer in layers:
        of_layer = [measure for measure in measures if measure.layer == layer]
        value = _mean([measure.value for measure in of_layer])
        intervals = [measure.ci95 for measure in of_layer if measure.ci95 is not None]
        if intervals:
            low = _mean([interval[0] for interval in intervals])
            high = _mean([interval[1] for interval in intervals])
            ax.vlines(layer, low, high, color=BLUE, lw=1.6)
        values.append(value)
    ax.plot(layers, values, "-o", color=BLUE, ms=5)


def _draw_shares(ax: Axes, layers: Sequence[int], measures: Sequence[Measure]) -> None:
    seeds = {measure.seed for measure in measures}
    bottoms = [0.0] * len(layers)
    for part, (name, color) in _PARTS.items():
        of_part = [measure for measure in measures if measure.part == part]
        if not of_part:
            continue
        shares = []
        for layer in layers:
            total = sum(measure.value for measure in of_part if measure.layer == layer)
            shares.append(100 * total / len(seeds))
        ax.bar(layers, shares, bottom=bottoms, width=0.8, color=color, label=name)
        bottoms = [bottom + share for bottom, share in zip(bottoms, shares, strict=True)]
    ax.set_ylabel("%")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
