"""Evaluates an engine on a task: settings -> predictions, scores, differences, copy rates, and some pictures."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.alternating import mark_shots_per_class
from flamingo.evaluation.attention_measures import save_attention_measures
from flamingo.evaluation.control_clock import ControlClock
from flamingo.evaluation.controls import CONTROLS
from flamingo.evaluation.copying import save_copy_rates
from flamingo.evaluation.demonstrations import ensembled_orders, prompt_examples
from flamingo.evaluation.outputs import Output, make_outputs
from flamingo.evaluation.preflight import check_settings
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import Example, RowScoredTask, ScoredRankingTask, Task, with_support
from flamingo.evaluation.resuming import load_complete_settings
from flamingo.evaluation.saved_differences import earlier_rows, save_task_differences
from flamingo.evaluation.saved_pictures import save_pictures
from flamingo.evaluation.scores import computable, score_rows, setting_statistics
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.submissions import save_submission
from flamingo.inference.engine import Engine
from flamingo.results import Row, append_predictions, save_scores, setting_key
from flamingo.utils.devices import processes, wait_for_processes
from flamingo.utils.errors import UserError
from flamingo.utils.names import short_name
from flamingo.utils.progress import progress_bar

log = logging.getLogger(__name__)

#: The number of earlier predictions per setting whose prompts are rebuilt and compared. Rebuilding all may take long.
_NUM_COMPARED = 10

Job = tuple[int, Example]
"""The number of the demonstrations' order, and a query."""


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

    A second call makes only the predictions that are missing. Several processes share the queries.

    Args:
        engine: The model; None if every setting has a control that needs no model.
        task: The task.
        settings: See :func:`flamingo.evaluation.settings.make_settings`.
        output: The folder of the result files.
        config: ``limit``, ``num_orders``, ``pictures``, ``attention_queries`` and the limits of new tokens are used
            here.
        on_progress: Called with the number of this process's predictions so far, and their total.
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
    jobs = {setting: _jobs(setting, queries, config.num_orders) for setting in settings}
    predictions_file = output / "predictions.jsonl"
    state = processes()
    rows: dict[Setting, list[Row]] = {}
    if state.is_main_process:
        rows = _finished_settings(predictions_file, task, jobs, template)
    [rows] = broadcast_object_list([rows])
    missing = _missing_settings(engine, settings, rows)
    if state.is_main_process:
        examples = _pictured(task, queries[: config.pictures], settings)
        save_pictures(output / "pictures", task.name, examples)
    missing_jobs = {setting: jobs[setting] for setting in missing}
    title = f"{short_name(output)}: {task.name}"
    for setting, rows_of_setting in _predictions(engine, task, missing_jobs, config, template, title, on_progress):
        rows[setting] = rows_of_setting
        if state.is_main_process:
            append_predictions(predictions_file, rows_of_setting)
            if on_save is not None:
                on_save()
    all_rows = []
    for setting in settings:
        all_rows += rows[setting]
    row_metrics = task.row_metrics if isinstance(task, RowScoredTask) else ()
    statistics = setting_statistics(all_rows, corpus_metrics, task.language, row_metrics)
    rows_of_scores = score_rows(statistics)
    mark_shots_per_class(task, rows_of_scores)
    if state.is_main_process:
        save_scores(output / "scores.json", rows_of_scores)
        earlier = earlier_rows(predictions_file, task, queries, statistics)
        save_task_differences(output / "differences.json", task, earlier, statistics)
        save_copy_rates(output / "in_context.json", task, earlier + all_rows)
        save_attention_measures(output / "in_context.json", engine, task, settings, queries, config, template)
        save_submission(output, task, {setting: rows[setting] for setting in settings})
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
        rescored.append(_rescore(task, setting, query, row, template or CaptionTemplate()))
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


def _jobs(setting: Setting, queries: Sequence[Example], num_orders: int) -> list[Job]:
    """Returns the jobs of a setting. Controls, single demonstrations and retrieved ones have only one order."""
    has_orders = setting.num_demonstrations > 1 and not setting.is_retrieved
    if setting.control is not None or not has_orders:
        num_orders = 1
    jobs = []
    for order in range(num_orders):
        jobs += [(order, query) for query in queries]
    return jobs


@contextmanager
def _progress(
    shares: Mapping[Setting, Sequence[Job]],
    on_progress: Callable[[int, int], object] | None,
    visible: bool,
) -> Iterator[tuple[tqdm, Callable[[int], None]]]:
    """Yields a progress bar, and the function that advances it by a number of predictions."""
    total = sum(len(share) for share in shares.values())
    with progress_bar(total, "prediction", visible=visible) as bar:
        count = 0

        def advance(number: int) -> None:
            nonlocal count
            count += number
            bar.update(number)
            if on_progress is not None:
                on_progress(count, total)

        yield bar, advance


def _predictions(
    engine: Engine | None,
    task: Task,
    jobs: Mapping[Setting, Sequence[Job]],
    config: EvaluationConfig,
    template: CaptionTemplate,
    title: str,
    on_progress: Callable[[int, int], object] | None,
) -> Iterator[tuple[Setting, list[Row]]]:
    """Yields the predictions of each setting, which all processes share, in the order of its jobs."""
    state = processes()
    shares = {setting: own_jobs[state.process_index :: state.num_processes] for setting, own_jobs in jobs.items()}
    numbers = {setting: len(own_jobs) for setting, own_jobs in jobs.items()}
    with _progress(shares, on_progress, visible=state.is_main_process) as (bar, advance):
        clock = ControlClock(numbers, partial(_announce, bar) if state.is_main_process else None)
        for setting, share in shares.items():
            bar.set_description(f"{title}: {setting}")
            clock.begin(setting)
            share_rows = _predict(engine, task, setting, share, config, template, advance)
            rows = _in_order(gather_object(share_rows), jobs[setting])
            clock.end(setting)
            yield setting, rows


def _announce(bar: tqdm, text: str) -> None:
    """Logs a line in place of the bar. The next prediction draws the bar below it."""
    bar.clear()
    log.info(text)


def _predict(
    engine: Engine | None,
    task: Task,
    setting: Setting,
    jobs: Sequence[Job],
    config: EvaluationConfig,
    template: CaptionTemplate,
    on_progress: Callable[[int], None],
) -> list[Row]:
    template = setting.caption_template(template)
    queries = [query for _, query in jobs]
    orders = [ensembled_orders(task, query, setting, order) for order, query in jobs]
    demonstrations = []
    for query, own_orders in zip(queries, orders, strict=True):
        demonstrations.append(prompt_examples(task, query, setting, own_orders[0]))
    if setting.change.answer is not None:
        own_task = with_support(task, setting.support)
        outputs = []
        for query, examples in zip(queries, demonstrations, strict=True):
            outputs.append(Output(setting.change.answer(own_task, query, examples)))
        on_progress(len(jobs))
    else:
        assert engine is not None
        prompts = []
        for query, own_orders in zip(queries, orders, strict=True):
            prompts.append(_prompts(task, query, setting, own_orders, template))
        outputs = make_outputs(engine, task, setting, queries, prompts, config, template, on_progress)
    rows = []
    for (order, query), examples, output in zip(jobs, demonstrations, outputs, strict=True):
        prompt = build_prompt(query, examples, setting.with_images, template)
        rows.append(_row(task, setting, order, query, examples, prompt, output))
    return rows


def _prompts(
    task: Task, query: Example, setting: Setting, orders: Sequence[int], template: CaptionTemplate
) -> list[Document]:
    """Returns the prompt of a query with its demonstrations in each order."""
    prompts = []
    for order in orders:
        examples = prompt_examples(task, query, setting, order)
        prompts.append(build_prompt(query, examples, setting.with_images, template))
    return prompts


def _row(
    task: Task,
    setting: Setting,
    order: int,
    query: Example,
    examples: Sequence[Example],
    prompt: Document,
    output: Output,
) -> Row:
    """Returns one row of ``predictions.jsonl``."""
    scores_by_metric = task.score(query, examples, output.text)
    if output.ranking is not None and isinstance(task, ScoredRankingTask):
        scores_by_metric |= task.score_ranking(query, [one["text"] for one in output.ranking["candidates"]])
    row = setting.row(task)
    row["order"] = order
    row["query"] = query.id
    if query.group is not None:
        row["group"] = query.group
    row["demonstration_ids"] = [example.id for example in examples]
    row["demonstration_answers"] = [example.references[0] for example in examples]
    row["prompt"] = render_prompt(prompt)
    row["output"] = output.text
    if output.ranking is not None:
        row["ranking"] = output.ranking
    row["references"] = list(query.references)
    row["scores"] = {metric: float(value) for metric, value in scores_by_metric.items()}
    return row


def _in_order(rows: Sequence[Row], jobs: Sequence[Job]) -> list[Row]:
    """Returns the rows of all processes in the order of the jobs."""
    by_job = {}
    for row in rows:
        by_job[row["order"], row["query"]] = row
    return [by_job[order, query.id] for order, query in jobs]


def _rescore(task: Task, setting: Setting, query: Example, row: Row, template: CaptionTemplate) -> Row:
    """Returns the row with the current scores.

    Raises:
        UserError: If the task has changed since the prediction.
    """
    shown_first = ensembled_orders(task, query, setting, row["order"])[0]
    examples = prompt_examples(task, query, setting, shown_first)
    prompt = build_prompt(query, examples, setting.with_images, setting.caption_template(template))
    output = Output(row["output"], row.get("ranking"))
    new = _row(task, setting, row["order"], query, examples, prompt, output)
    for field in ("demonstration_ids", "demonstration_answers", "prompt", "references"):
        if row[field] != new[field]:
            raise UserError(
                f"{task.name} has changed: the {field} of {row['query']!r} were {row[field]!r} when it was predicted, "
                f"and now are {new[field]!r}; evaluate into another folder"
            )
    return new


def _finished_settings(
    file: Path, task: Task, jobs: Mapping[Setting, Sequence[Job]], template: CaptionTemplate
) -> dict[Setting, list[Row]]:
    """Returns the rows of settings with complete predictions. Some of each are compared with the current task."""
    expected = {}
    for setting, setting_jobs in jobs.items():
        key = setting_key(setting.row(task))
        expected[key] = [(order, query.id) for order, query in setting_jobs]
    complete = load_complete_settings(file, expected)
    finished = {}
    for setting, setting_jobs in jobs.items():
        key = setting_key(setting.row(task))
        if key not in complete:
            continue
        rows = complete[key]
        step = max(1, len(rows) // _NUM_COMPARED)
        pairs = list(zip(setting_jobs, rows, strict=True))
        for (_, query), row in pairs[::step]:
            _rescore(task, setting, query, row, template)
        finished[setting] = rows
    return finished


def _pictured(task: Task, queries: Sequence[Example], settings: Sequence[Setting]) -> list[Example]:
    """Returns the examples whose pictures the report shows: the queries and their demonstrations, without controls."""
    examples = []
    for query in queries:
        examples.append(query)
        for setting in settings:
            if setting.with_images and setting.control is None:
                examples += prompt_examples(task, query, setting)
    return examples
