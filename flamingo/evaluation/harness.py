"""Evaluates a model on a task: settings -> ``predictions.jsonl``, ``scores.json`` and some pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from flamingo.data.processor import FlamingoProcessor
from flamingo.evaluation.demonstrations import document, spell
from flamingo.evaluation.files import append_predictions, keep_whole, save_pictures, save_scores
from flamingo.evaluation.preflight import check_settings
from flamingo.evaluation.protocol import Example, Task
from flamingo.evaluation.scores import Row, computable, key, scores
from flamingo.evaluation.settings import Setting, prompt_examples
from flamingo.inference.features import FeatureStore
from flamingo.inference.flamingo_engine import Decoder
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError

#: Earlier predictions of a setting that are compared: to make all their prompts anew may take long.
_COMPARED = 10

Job = tuple[int, Example]
"""The number of the demonstrations' order, and a query."""


def evaluate(
    model: FlamingoForConditionalGeneration | None,
    processor: FlamingoProcessor | None,
    task: Task,
    settings: Sequence[Setting],
    output: Path,
    batch_size: int,
    limit: int | None = None,
    orders: int = 1,
    pictures: int = 12,
    features: FeatureStore | None = None,
    on_progress: Callable[[int, int], object] | None = None,
    on_save: Callable[[], None] | None = None,
) -> list[Row]:
    """Predict and score all settings; the rows of ``scores.json`` that belong to them.

    ``limit``: the first so many queries. ``orders``: so many orders of the demonstrations, where
    there are several and no control. ``pictures``: so many queries' pictures are saved, and those of
    their demonstrations. ``features``: of all pictures, in the place of the encoder. ``on_progress``
    is called with this process's predictions so far and all it has to make, ``on_save`` when those of a
    setting are saved. ``copied_caption`` needs neither model nor processor.

    Run again, it makes only the predictions that are missing. Several processes share the queries.
    Raises UserError for settings that the task does not fit, and where ``output`` holds predictions
    of other queries.
    """
    for name, value, least in (("limit", limit, 1), ("orders", orders, 1), ("pictures", pictures, 0)):
        if value is not None:
            whole(name, value, least)
    whole("batch_size", batch_size, least=1)
    check_settings(task, settings, limit)
    corpus_metrics = computable(task.corpus_metrics)
    queries = list(task.queries())[:limit]
    jobs = {s: [(n, q) for n in range(_orders(s, orders)) for q in queries] for s in settings}
    # Without cpu=True accelerate would take processes without a GPU for single ones, which write the same files.
    state = PartialState(cpu=not torch.accelerator.is_available())
    done = _done(output / "predictions.jsonl", task, jobs) if state.is_main_process else {}
    [done] = broadcast_object_list([done])
    mine = {s: jobs[s][state.process_index :: state.num_processes] for s in settings if s not in done}
    decoder = None
    if any(setting.control != "copied_caption" for setting in mine):
        if model is None or processor is None:
            raise ValueError("only the control copied_caption does without a model and a processor")
        decoder = Decoder(model, processor, batch_size, features)
    if state.is_main_process:
        save_pictures(output / "pictures", task.name, _shown(task, queries[:pictures], settings))
    made, total = 0, sum(map(len, mine.values()))
    with tqdm(total=total, unit="prediction", disable=not state.is_main_process) as bar:

        def progress(more: int) -> None:
            nonlocal made
            made += more
            bar.update(more)
            if on_progress:
                on_progress(made, total)

        for setting, own in mine.items():
            bar.set_description(f"{task.name}: {setting}")
            rows = {(r["order"], r["query"]): r for r in gather_object(_predict(decoder, task, setting, own, progress))}
            done[setting] = [rows[order, query.id] for order, query in jobs[setting]]
            if state.is_main_process:
                append_predictions(output / "predictions.jsonl", done[setting])
                if on_save is not None:
                    on_save()
    result = scores([row for setting in settings for row in done[setting]], corpus_metrics)
    if state.is_main_process:
        save_scores(output / "scores.json", result)
    state.wait_for_everyone()
    return result


def score_predictions(task: Task, predictions: Sequence[Row]) -> list[Row]:
    """The same predictions with the task's metrics of today, for :func:`scores`; no model is needed.

    Raises UserError for predictions that the task's queries and demonstrations do not lead to.
    """
    queries = {query.id: query for query in task.queries()}
    rescored = []
    for row in predictions:
        if row["task"] != task.name or row["query"] not in queries:
            raise UserError(f"{task.name} has no query {row['query']!r} of {row['task']}")
        rescored.append(_again(task, Setting.of_row(row), queries[row["query"]], row))
    return rescored


def _predict(
    decoder: Decoder | None, task: Task, setting: Setting, jobs: Sequence[Job], progress: Callable[[int], None]
) -> list[Row]:
    shown = [prompt_examples(task, query, setting, order) for order, query in jobs]
    if setting.control == "copied_caption":
        outputs = [examples[-1].references[0] for examples in shown]
        progress(len(jobs))
    else:
        assert decoder is not None
        images = setting.demonstrations != "text_only"
        prompts = [document(query, examples, images) for (_, query), examples in zip(jobs, shown, strict=True)]
        outputs = decoder(prompts, task.max_new_tokens, setting.beams, setting.control == "blind", progress)
    rows = zip(jobs, shown, outputs, strict=True)
    return [_row(task, setting, order, query, examples, output) for (order, query), examples, output in rows]


def _row(task: Task, setting: Setting, order: int, query: Example, examples: Sequence[Example], output: str) -> Row:
    """One row of ``predictions.jsonl``."""
    return {
        **setting.row(task),
        "order": order,
        "query": query.id,
        "demonstration_ids": [example.id for example in examples],
        "prompt": spell(document(query, examples, setting.demonstrations != "text_only")),
        "output": output,
        "references": list(query.references),
        "scores": {metric: float(value) for metric, value in task.score(query, examples, output).items()},
    }


def _again(task: Task, setting: Setting, query: Example, row: Row) -> Row:
    """A row scored anew. Raises UserError where the task has changed since it was predicted."""
    fresh = _row(task, setting, row["order"], query, prompt_examples(task, query, setting, row["order"]), row["output"])
    for field in ("demonstration_ids", "prompt", "references"):
        if row[field] != fresh[field]:
            raise UserError(
                f"{task.name} has changed: the {field} of {row['query']!r} were {row[field]!r} when it was predicted, "
                f"and now are {fresh[field]!r}; evaluate into another folder"
            )
    return fresh


def _done(file: Path, task: Task, jobs: dict[Setting, list[Job]]) -> dict[Setting, list[Row]]:
    """The rows of the settings that need no decoding. Some of each are compared with what they would be now."""
    keys = {setting: key(setting.row(task)) for setting in jobs}
    whole = keep_whole(file, {keys[s]: [(order, query.id) for order, query in own] for s, own in jobs.items()})
    done = {setting: whole[keys[setting]] for setting in jobs if keys[setting] in whole}
    for setting, rows in done.items():
        for place in range(0, len(rows), max(1, len(rows) // _COMPARED)):
            _again(task, setting, jobs[setting][place][1], rows[place])
    return done


def _orders(setting: Setting, orders: int) -> int:
    """How many orders are asked for: controls are made once, one demonstration has one order, retrieved ones theirs."""
    several = setting.demonstrations == "text_only" or (setting.demonstrations == "random" and setting.shots > 1)
    return orders if several and setting.control is None else 1


def _shown(task: Task, queries: Sequence[Example], settings: Sequence[Setting]) -> list[Example]:
    """What a report of these queries shows: they and their demonstrations with images, without controls."""
    shown = [setting for setting in settings if setting.with_images and setting.control is None]
    return [e for query in queries for e in (query, *(d for s in shown for d in prompt_examples(task, query, s)))]
