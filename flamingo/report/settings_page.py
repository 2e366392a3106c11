"""One self-contained page of HTML that compares several models setting by setting."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flamingo.difference_rows import Difference
from flamingo.measure_rows import Measure, read_measures
from flamingo.report.copying_tables import copying_table
from flamingo.report.difference_table import difference_tables
from flamingo.report.model_curves import model_curves
from flamingo.report.page import as_pictures, template
from flamingo.report.score_text import UNITS
from flamingo.report.settings_tables import ModelScores, model_scores, settings_table, task_metrics
from flamingo.report.table import Table
from flamingo.report.variants import Variant


def settings_page(variants: Sequence[Variant], problems: Mapping[str, str], differences: Sequence[Difference]) -> str:
    """Returns the page.

    Args:
        variants: The models, the baseline first.
        problems: Folder or variant -> the reason why it is left out, missing or incomplete.
        differences: Paired differences to the baseline.
    """
    models = model_scores(variants)
    tasks: dict[str, None] = {}
    for model in models:
        tasks.update(dict.fromkeys(setting.task for setting, _ in model.scores))
    measures = {variant.name: _measures(variant) for variant in variants}
    number = len(models)
    return template("settings.html").render(
        title=f"{number} model{'' if number == 1 else 's'}, setting by setting",
        baseline=models[0].name,
        units=UNITS,
        tasks=[_task(models, differences, measures, task) for task in tasks],
        differences=_difference_tables(differences),
        problems=problems,
    )


def _measures(variant: Variant) -> list[Measure]:
    """Returns the in-context measures of all runs of a variant."""
    measures: list[Measure] = []
    for run in variant.runs:
        file = run.folder / "in_context.json"
        if file.is_file():
            measures += read_measures(file)
    return measures


def _task(
    models: Sequence[ModelScores],
    differences: Sequence[Difference],
    measures: Mapping[str, Sequence[Measure]],
    task: str,
) -> dict[str, Any]:
    headline, *others = task_metrics(models, differences, task)
    curves = model_curves(models, task)
    return {
        "name": task,
        "curves": None if curves is None else as_pictures(curves),
        "headline": settings_table(models, task, headline, differences),
        "others": [settings_table(models, task, metric) for metric in others],
        "copying": copying_table(measures, task),
    }


def _difference_tables(differences: Sequence[Difference]) -> list[Table]:
    """Returns a table for each family of tests: a task's settings without control, and its controls."""
    plain = [difference for difference in differences if difference.setting.control is None]
    controls = [difference for difference in differences if difference.setting.control is not None]
    tables = difference_tables(plain)
    for table in difference_tables(controls):
        tables.append(replace(table, title=f"{table.title}, controls"))
    return tables
