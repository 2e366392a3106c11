"""Few-shot curves of several models in one plot."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flamingo.headline_metrics import headlines
from flamingo.report.averages import main_decoding
from flamingo.report.curves import metric_name, upper_end
from flamingo.report.settings_tables import ModelScores
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
)
from flamingo.results import Score, SettingOfTask

#: Of models in their order. More models repeat colours with other markers.
_COLORS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: The line of each selection of demonstrations, and the end of its label.
_LINES = {
    "random": ("-", ""),
    "rices": ("--", ", RICES"),
    "rices_question": (":", ", RICES by question"),
    "rices_caption": ("-.", ", RICES by caption"),
    "rices_sum": ((0, (6, 1)), ", RICES by sum"),
}
#: In inches: the width of a figure, the height of a panel, and the width of a letter of a label.
_WIDTH, _HEIGHT, _LETTER = 13.5, 3.9, 0.095


def model_curves(models: Sequence[ModelScores], task: str) -> Figure | None:
    """Returns scores over shots: a panel per headline metric, a line per model and selection of demonstrations.

    Drawn are settings without control, with the checkpoint's template and the task's own support, in one decoding:
    greedy if it was run.

    Returns:
        The figure; None if no model has such a setting.
    """
    scores: list[Score] = []
    for model in models:
        scores += [score for score in model.of_task(task) if _is_plain(score.setting)]
    if not scores:
        return None
    decoding = main_decoding(score.setting.decoding for score in scores)
    metrics = headlines(score.metric for score in scores)
    longest = max(len(model.name) for model in models)
    ends = [_LINES[score.setting.demonstrations or "random"][1] for score in scores]
    longest += max(0, max(len(end) for end in ends) - len(_LINES["rices"][1]))
    width = max(4.5, 3.2 + _LETTER * longest)
    columns = max(1, min(int(_WIDTH / width), len(metrics)))
    rows = math.ceil(len(metrics) / columns)
    with style():
        figure = new_figure(width * columns, _HEIGHT * rows)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, metric in zip(axes, metrics, strict=False):
            _draw_panel(ax, models, task, metric, decoding)
        for ax in axes[len(metrics) :]:
            ax.set_axis_off()
    return figure


def _is_plain(setting: SettingOfTask) -> bool:
    selections = (None, *_LINES)
    changes = (setting.control, setting.template, setting.support)
    return setting.demonstrations in selections and changes == (None, None, None)


def _draw_panel(ax: Axes, models: Sequence[ModelScores], task: str, metric: str, decoding: str) -> None:
    curves: dict[tuple[int, str], list[Score]] = {}
    for number, model in enumerate(models):
        for score in model.of_task(task):
            setting = score.setting
            if _is_plain(setting) and (score.metric, setting.decoding) == (metric, decoding):
                curves.setdefault((number, setting.demonstrations or "random"), []).append(score)
    all_scores = [score for curve in curves.values() for score in curve]
    shots = sorted({score.setting.shots for score in all_scores})
    labels = []
    for (number, selection), curve in curves.items():
        curve.sort(key=lambda score: score.setting.shots)
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        line, label_end = _LINES[selection]
        x = [float(shots.index(score.setting.shots)) for score in curve]
        y = [score.value for score in curve]
        for position, score in zip(x, curve, strict=True):
            if score.ci95 is not None:
                ax.vlines(position, *score.ci95, color=color, lw=1.4, alpha=0.5)
        ax.plot(x, y, color=color, marker=marker, ls=line, lw=1.8, ms=6, clip_on=False)
        labels.append(Label(x[-1], y[-1], f"{models[number].name}{label_end}", color))
    ax.set_xticks(range(len(shots)), [str(count) for count in shots])
    ax.set_xlim(-0.25, max(len(shots) - 1, 0.5) + 0.25)
    ax.set_ylim(0, 1.05 * max(upper_end(score) for score in all_scores) or 1.0)
    ax.set_xlabel("shots")
    ax.set_title(metric_name(metric), loc="left", color=MUTED)
    label_ends(ax, labels)
