"""Predictions of an earlier, perhaps interrupted evaluation -> those that are complete and still valid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation.predicting import Job
from flamingo.evaluation.prediction_rows import rescored_row
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.settings import Setting
from flamingo.results import Row, read_prediction_rows, setting_key, write_predictions
from flamingo.utils.errors import UserError

#: The number of earlier predictions per setting whose prompts are rebuilt and compared. Rebuilding all may take long.
_NUM_COMPARED = 10


def finished_settings(
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
            rescored_row(task, setting, query, row, template)
        finished[setting] = rows
    return finished


def load_complete_settings(
    file: Path, expected: Mapping[tuple[Any, ...], Sequence[tuple[int, str]]]
) -> dict[tuple[Any, ...], list[Row]]:
    """Returns the predictions of each expected setting that is complete, and removes those of incomplete ones.

    Args:
        file: ``predictions.jsonl``.
        expected: For each setting's :func:`setting_key` the order and the query of every prediction.

    Raises:
        UserError: For predictions that are not expected, which may belong to another evaluation.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_prediction_rows(file)
    rows_of: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        rows_of.setdefault(setting_key(row), []).append(row)
    complete: dict[tuple[Any, ...], list[Row]] = {}
    for setting, predictions in expected.items():
        existing = {(row["order"], row["query"]): row for row in rows_of.get(setting, [])}
        unexpected = existing.keys() - set(predictions)
        if unexpected:
            raise UserError(
                f"{file} has {len(unexpected)} predictions of {setting} that are not expected, such as "
                f"{min(unexpected)}: evaluate into another folder, or remove the file"
            )
        if len(existing) == len(predictions):
            complete[setting] = [existing[prediction] for prediction in predictions]
    write_predictions(file, [row for row in rows if setting_key(row) in complete or setting_key(row) not in expected])
    return complete
