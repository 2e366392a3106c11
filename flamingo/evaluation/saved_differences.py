"""Writes the comparisons of a task's settings into ``differences.json``, with the rows of earlier evaluations."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flamingo.difference_rows import save_differences
from flamingo.evaluation.comparisons import setting_differences
from flamingo.evaluation.protocol import Example, RowScoredTask, Task
from flamingo.evaluation.scores import SettingStatistics, setting_statistics
from flamingo.headline_metrics import headlines
from flamingo.results import Row, read_prediction_rows, setting_key

log = logging.getLogger(__name__)


def save_task_differences(file: Path, task: Task, earlier: Sequence[Row], statistics: SettingStatistics) -> None:
    """Compares the settings by the task's headline metric, and writes ``differences.json``.

    Args:
        file: The file.
        task: The task.
        earlier: The predictions in all other settings: see :func:`earlier_rows`.
        statistics: The scores of this evaluation.
    """
    metrics: list[str] = []
    for orders in statistics.values():
        metrics += orders[0]
    if not metrics:
        return
    [metric, *_] = headlines(metrics)
    corpus_metrics = [metric] if metric in task.corpus_metrics else []
    of_rows = any(metric in row["scores"] for row in earlier)
    row_metrics = task.row_metrics if isinstance(task, RowScoredTask) and not (corpus_metrics or of_rows) else ()
    all_statistics = setting_statistics(earlier, corpus_metrics, task.language, row_metrics) | statistics
    scores = {}
    for setting, orders in all_statistics.items():
        if metric in orders[0]:
            scores[setting] = orders[0][metric]
    save_differences(file, setting_differences(scores, metric), task.name)


def earlier_rows(file: Path, task: Task, queries: Sequence[Example], statistics: SettingStatistics) -> list[Row]:
    """Returns the predictions of order 0 in other settings of the task with the same queries.

    A setting with other queries cannot be compared: it is left out and logged.

    Args:
        file: ``predictions.jsonl``.
        task: The task.
        queries: The queries of this evaluation.
        statistics: The scores of this evaluation.
    """
    rows_of: dict[tuple[Any, ...], list[Row]] = {}
    for row in read_prediction_rows(file):
        setting = setting_key(row)
        if row["task"] == task.name and row["order"] == 0 and setting not in statistics:
            rows_of.setdefault(setting, []).append(row)
    expected = [(query.id, list(query.references)) for query in queries]
    earlier = []
    for setting, rows in rows_of.items():
        if [(row["query"], row["references"]) for row in rows] == expected:
            earlier += rows
        else:
            log.warning("%s is not among the differences: it has predictions of other queries", setting)
    return earlier
