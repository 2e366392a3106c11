"""The scores of a task -> tables that fit the width of a page."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flamingo.report.averages import in_order, mean_over_seeds
from flamingo.report.curves import metric_name
from flamingo.report.score_text import interval_text, score_text
from flamingo.results import Score, SettingOfTask

#: The largest number of metrics, with their intervals, in a table on a page of 1200 pixels.
_COLUMNS = 5


def task_tables(scores: Sequence[Score], task: str) -> list[dict[str, Any]]:
    """Returns tables with a row for each setting, the mean over its seeds, and a column for each metric.

    The metrics of few settings come last. A further table has only the settings with one of its metrics.
    """
    means = [score for score in mean_over_seeds(scores) if score.setting.task == task]
    counts = Counter(score.metric for score in means)
    metrics = [metric for metric, _ in counts.most_common()]
    scores_of: dict[SettingOfTask, dict[str, Score]] = {}
    for score in in_order(means):
        scores_of.setdefault(score.setting, {})[score.metric] = score
    tables = []
    for start in range(0, len(metrics), _COLUMNS):
        tables.append(_table(scores_of, metrics[start : start + _COLUMNS]))
    return tables


def _table(scores_of: Mapping[SettingOfTask, Mapping[str, Score]], metrics: Sequence[str]) -> dict[str, Any]:
    rows = []
    for setting, of_setting in scores_of.items():
        shown = {metric: of_setting[metric] for metric in metrics if metric in of_setting}
        if shown:
            rows.append(_row(setting, shown, metrics))
    return {"metrics": [metric_name(metric) for metric in metrics], "rows": rows}


def _row(setting: SettingOfTask, scores: Mapping[str, Score], metrics: Sequence[str]) -> dict[str, Any]:
    """Returns the cells of a setting; None for a metric that was not computed."""
    cells: list[tuple[str, str] | None] = []
    for metric in metrics:
        if metric in scores:
            score = scores[metric]
            cells.append((score_text(score.value), interval_text(score.ci95)))
        else:
            cells.append(None)
    # The spread over orders counts orders.
    counts = [score.n for score in scores.values() if not score.metric.endswith("_order_std")]
    seeds = max((score.seeds for score in scores.values()), key=len)
    return {
        "shots": setting.shots,
        "demonstrations": demonstrations_text(setting),
        "control": setting.control_name,
        "decoding": setting.decoding,
        "cells": cells,
        "queries": range_text(counts),
        "seeds": seeds_text(seeds),
    }


def demonstrations_text(setting: SettingOfTask) -> str:
    """Returns how demonstrations are chosen and from which support, and a template that is not the checkpoint's."""
    selection = (setting.demonstrations or "none").replace("_", " ").replace("rices", "RICES")
    names = [selection, setting.support_name, setting.template or ""]
    return ", ".join(name for name in names if name)


def range_text(counts: Iterable[int]) -> str:
    """Returns the smallest and the largest of some numbers."""
    numbers = sorted(set(counts))
    if not numbers:
        return ""
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{numbers[0]} to {numbers[-1]}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Returns the seeds, such as ``0, 1, 5``; three or more consecutive ones as ``0 to 7``."""
    seeds = sorted(seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return range_text(seeds)
    return ", ".join(str(seed) for seed in seeds)
