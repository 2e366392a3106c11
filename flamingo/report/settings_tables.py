"""Scores of several models -> tables with a row for each setting, and the paired differences to the first model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flamingo.difference_rows import Difference
from flamingo.headline_metrics import headlines
from flamingo.report.averages import in_order, mean_over_seeds
from flamingo.report.curves import metric_name
from flamingo.report.page_tables import SETTING_COLUMNS, score_cell, setting_cells
from flamingo.report.score_text import difference_text, interval_text
from flamingo.report.table import LONG, NO_VALUE, Cell, Column, Row, Table
from flamingo.report.variants import Variant
from flamingo.results import Score, SettingOfTask

#: The largest number of models that have columns of their own; more have rows.
_COLUMNS = 5

DifferenceOf = Mapping[tuple[SettingOfTask, str], Difference]
"""Setting and model -> the difference to the first model."""


@dataclass(frozen=True)
class ModelScores:
    """The scores of a model: the means over its trainings and over the seeds of their evaluations."""

    name: str
    scores: Mapping[tuple[SettingOfTask, str], Score]
    """By setting and metric."""

    def of_task(self, task: str) -> list[Score]:
        """Returns the scores of a task."""
        return [score for score in self.scores.values() if score.setting.task == task]


def model_scores(variants: Sequence[Variant]) -> list[ModelScores]:
    """Returns the scores of each variant in all its settings."""
    models = []
    for variant in variants:
        scores: list[Score] = []
        for run in variant.runs:
            scores += run.means
        means = mean_over_seeds(scores)
        models.append(ModelScores(variant.name, {(mean.setting, mean.metric): mean for mean in means}))
    return models


def task_metrics(models: Sequence[ModelScores], differences: Iterable[Difference], task: str) -> list[str]:
    """Returns the metrics of a task, that of its differences first."""
    metrics: dict[str, None] = {}
    for model in models:
        metrics.update(dict.fromkeys(score.metric for score in model.of_task(task)))
    compared = [difference.metric for difference in differences if difference.setting.task == task]
    first = compared[:1] or headlines(metrics)[:1]
    return first + [metric for metric in metrics if metric not in first]


def settings_table(
    models: Sequence[ModelScores], task: str, metric: str, differences: Iterable[Difference] = ()
) -> Table:
    """Returns a row for each setting: the scores of all models, and the differences to the first model.

    More than 5 models have a row each instead of a column.

    Args:
        models: The models.
        task: The task.
        metric: The metric.
        differences: Paired differences to the first model, of which those of the metric are shown.
    """
    difference_of = {}
    for difference in differences:
        if difference.metric == metric and difference.variant is not None:
            difference_of[difference.setting, difference.variant] = difference
    scores: list[Score] = []
    for model in models:
        scores += [score for score in model.of_task(task) if score.metric == metric]
    settings = list(dict.fromkeys(score.setting for score in in_order(scores)))
    has_differences = any(setting in settings for setting, _ in difference_of)
    if len(models) > _COLUMNS:
        return _long_table(models, settings, metric, difference_of, has_differences)
    columns = list(SETTING_COLUMNS)
    for model in models:
        columns.append(Column(model.name))
        if has_differences and model is not models[0]:
            columns.append(Column("difference"))
    rows = []
    for setting in settings:
        cells = setting_cells(setting)
        for model in models:
            cells.append(score_cell(model.scores.get((setting, metric))))
            if has_differences and model is not models[0]:
                cells.append(_difference_cell(difference_of.get((setting, model.name))))
        rows.append(Row(tuple(cells), setting.control is not None))
    return Table(metric_name(metric), tuple(columns), tuple(rows))


def _long_table(
    models: Sequence[ModelScores],
    settings: Sequence[SettingOfTask],
    metric: str,
    difference_of: DifferenceOf,
    has_differences: bool,
) -> Table:
    """Returns a row for each setting and model."""
    columns = [*SETTING_COLUMNS, Column("model", LONG), Column(metric_name(metric))]
    if has_differences:
        columns.append(Column("difference"))
    rows = []
    for setting in settings:
        for model in models:
            if (setting, metric) not in model.scores:
                continue
            cells = [*setting_cells(setting), Cell(model.name), score_cell(model.scores[setting, metric])]
            if has_differences:
                cells.append(_difference_cell(difference_of.get((setting, model.name))))
            rows.append(Row(tuple(cells), setting.control is not None))
    return Table(metric_name(metric), tuple(columns), tuple(rows))


def _difference_cell(difference: Difference | None) -> Cell:
    """Returns a difference with its mark and its interval."""
    if difference is None:
        return Cell(NO_VALUE)
    text = f"{difference_text(difference.value)} {difference.mark}"
    return Cell(text, interval_text(difference.interval), difference.value)
