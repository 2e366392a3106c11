"""Predictions of an earlier, perhaps interrupted evaluation -> those that are complete and still valid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flamingo.results import Row, read_prediction_rows, setting_key, write_predictions
from flamingo.utils.errors import UserError


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
