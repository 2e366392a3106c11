"""Evaluates an engine on a task: settings -> predictions, scores, differences, copy rates, and some pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accelerate.utils import broadcast_object_list

from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.alternating import mark_shots_per_class
from flamingo.evaluation.attention_measures import save_attention_measures
from flamingo.evaluation.controls import CONTROLS
from flamingo.evaluation.copying import save_copy_rates
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.predicting import make_predictions, setting_jobs
from flamingo.evaluation.prediction_rows import rescored_row
from flamingo.evaluation.preflight import check_settings
from flamingo.evaluation.protocol import Example, RowScoredTask, Task
from flamingo.evaluation.resuming import finished_settings
from flamingo.evaluation.saved_differences import earlier_rows, save_task_differences
from flamingo.evaluation.saved_pictures import save_pictures
from flamingo.evaluation.scores import computable, score_rows, setting_statistics
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.submissions import save_submission
from flamingo.inference.engine import Engine
from flamingo.results import Row, append_predictions, save_scores
from flamingo.utils.devices import processes, wait_for_processes
from flamingo.utils.errors import UserError
from flamingo.utils.names import short_name


def evaluate(
    engine: Engine | None,
    task: Task,
    settings: Sequence[Setting],
    output: Path,
    config: EvaluationConfig,
    on_progress: Callable[[int, int], object] | None = None,
    on_save: Callable[[], object] | None = None,
    template: CaptionTemplate | None = None,
) -> list[Row]:
    """Predicts and scores a task in all settings.

    A second call makes only the predictions that are missing. Several processes share the work: their results are
    those of one process.

    Args:
        engine: The model; None if every setting has a control that needs no model.
        task: The task.
        settings: See :func:`flamingo.evaluation.settings.make_settings`.
        output: The folder of the result files.
        config: ``limit``, ``num_orders``, ``pictures``, ``attention_queries`` and the limits of new tokens are used
            here.
        on_progress: Called with the number of predictions so far, and their total.
        on_save: Called when the predictions of a setting are saved.
        template: The checkpoint's template of captions, for settings without one; None: the default template.

    Returns:
        The rows of the settings in ``scores.json``.

    Raises:
        UserError: If settings do not fit the task, or ``output`` has predictions of other queries.
    """
    check_settings(task, settings, config.limit)
    template = template or CaptionTemplate()
    corpus_metrics = computable(task.corpus_metrics, task.language)
    queries = list(task.queries())[: config.limit]
    jobs = {setting: setting_jobs(setting, queries, config.num_orders) for setting in settings}
    predictions_file = output / "predictions.jsonl"
    state = processes()
    rows: dict[Setting, list[Row]] = {}
    if state.is_main_process:
        rows = finished_settings(predictions_file, task, jobs, template)
    [rows] = broadcast_object_list([rows])
    missing = _missing_settings(engine, settings, rows)
    if state.is_main_process:
        examples = _pictured(task, queries[: config.pictures], settings)
        save_pictures(output / "pictures", task.name, examples)
    missing_jobs = {setting: jobs[setting] for setting in missing}
    title = f"{short_name(output)}: {task.name}"
    for setting, rows_of_setting in make_predictions(engine, task, missing_jobs, config, template, title, on_progress):
        rows[setting] = rows_of_setting
        if state.is_main_process:
            append_predictions(predictions_file, rows_of_setting)
            if on_save is not None:
                on_save()
    rows = {setting: rows[setting] for setting in settings}
    return _save_results(engine, task, rows, corpus_metrics, queries, output, config, template)


def _save_results(
    engine: Engine | None,
    task: Task,
    rows: Mapping[Setting, Sequence[Row]],
    corpus_metrics: Sequence[str],
    queries: Sequence[Example],
    output: Path,
    config: EvaluationConfig,
    template: CaptionTemplate,
) -> list[Row]:
    """Scores the predictions of all settings, and writes all result files but ``predictions.jsonl``.

    Returns:
        The rows of the settings in ``scores.json``.
    """
    all_rows: list[Row] = []
    for rows_of_setting in rows.values():
        all_rows += rows_of_setting
    row_metrics = task.row_metrics if isinstance(task, RowScoredTask) else ()
    statistics = setting_statistics(all_rows, corpus_metrics, task.language, row_metrics)
    rows_of_scores = score_rows(statistics)
    mark_shots_per_class(task, rows_of_scores)
    if processes().is_main_process:
        save_scores(output / "scores.json", rows_of_scores)
        earlier = earlier_rows(output / "predictions.jsonl", task, queries, statistics)
        save_task_differences(output / "differences.json", task, earlier, statistics)
        save_copy_rates(output / "in_context.json", task, earlier + all_rows)
    save_attention_measures(output / "in_context.json", engine, task, list(rows), queries, config, template)
    if processes().is_main_process:
        save_submission(output, task, rows)
    wait_for_processes()
    return rows_of_scores


def score_predictions(task: Task, predictions: Sequence[Row], template: CaptionTemplate | None = None) -> list[Row]:
    """Returns the predictions with the current metrics of the task. No model is needed.

    Args:
        task: The task.
        predictions: Rows of ``predictions.jsonl``.
        template: The template of settings without one; None: the default template.

    Raises:
        UserError: If predictions do not fit the task's queries and demonstrations.
    """
    queries = {query.id: query for query in task.queries()}
    rescored = []
    for row in predictions:
        if row["task"] != task.name or row["query"] not in queries:
            raise UserError(f"{task.name} has no query {row['query']!r} of {row['task']}")
        setting = Setting.of_row(row)
        query = queries[row["query"]]
        rescored.append(rescored_row(task, setting, query, row, template or CaptionTemplate()))
    return rescored


def _missing_settings(
    engine: Engine | None, settings: Sequence[Setting], rows: Mapping[Setting, Sequence[Row]]
) -> list[Setting]:
    """Returns the settings without predictions, controls last: the plain settings' time predicts theirs.

    Raises:
        ValueError: If an engine is needed and missing.
    """
    missing = [setting for setting in settings if setting not in rows]
    if engine is None and any(setting.change.answer is None for setting in missing):
        names = [name for name, control in CONTROLS.items() if control.answer is not None]
        raise ValueError(f"an engine is needed: only the controls {', '.join(names)} have answers without a model")
    return sorted(missing, key=lambda setting: setting.control is not None)


def _pictured(task: Task, queries: Sequence[Example], settings: Sequence[Setting]) -> list[Example]:
    """Returns the examples whose pictures the report shows: the queries and their demonstrations, without controls."""
    examples = []
    for query in queries:
        examples.append(query)
        for setting in settings:
            if setting.with_images and setting.control is None:
                examples += prompt_examples(task, query, setting)
    return examples
