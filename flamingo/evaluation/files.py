"""The files of an evaluation: ``predictions.jsonl``, ``scores.json`` and ``pictures/``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flamingo.data.transforms.pictures import open_image
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.scores import KEY, Row, key
from flamingo.utils.errors import UserError
from flamingo.utils.io import append, atomic_file, complete_lines, json_object, parse_json, write_text
from flamingo.utils.names import picture_path

_PICTURE_SIZE = 256
_FIELDS = {"order", "query", "demonstration_ids", "prompt", "output", "references", "scores"}


def read_predictions(file: Path) -> list[Row]:
    """The rows of ``predictions.jsonl``, without a last line that was cut off; none where there is no such file.

    Raises UserError, naming file and line, for what is no prediction.
    """
    rows = []
    for number, line in enumerate(complete_lines(file), start=1):
        where = f"{file}, line {number}"
        row = json_object(line, where)
        if missing := sorted({*KEY, *_FIELDS} - row.keys()):
            raise UserError(f"{where} is not a prediction: it has no {missing[0]}")
        rows.append(row)
    return rows


def append_predictions(file: Path, rows: Sequence[Row]) -> None:
    """Add rows to those that are there; they are on the disk when this returns."""
    append(file, "".join(map(_line, rows)).encode())


def load_complete_settings(
    file: Path, expected: Mapping[tuple[Any, ...], Sequence[tuple[int, str]]]
) -> dict[tuple[Any, ...], list[Row]]:
    """Returns the predictions of each expected setting that are complete; removes those of incomplete ones.

    Args:
        file: ``predictions.jsonl``.
        expected: For each setting's :func:`key` the order and the query of every prediction.

    Raises:
        UserError: Where there are predictions that are not expected, which may belong to another evaluation.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_predictions(file)
    rows_of: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        rows_of.setdefault(key(row), []).append(row)
    complete: dict[tuple[Any, ...], list[Row]] = {}
    for setting, predictions in expected.items():
        existing = {(row["order"], row["query"]): row for row in rows_of.get(setting, [])}
        if unexpected := existing.keys() - set(predictions):
            raise UserError(
                f"{file} has {len(unexpected)} predictions of {setting} that are not expected, such as "
                f"{min(unexpected)}: evaluate into another folder, or remove the file"
            )
        if len(existing) == len(predictions):
            complete[setting] = [existing[prediction] for prediction in predictions]
    kept = [row for row in rows if key(row) in complete or key(row) not in expected]
    text = "".join(_line(row) for row in kept)
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") != text:
        write_text(file, text)
    return complete


def save_scores(file: Path, rows: Sequence[Row]) -> None:
    """Into ``scores.json``, in the place of earlier scores of the same settings."""
    new = {key(row) for row in rows}
    earlier = parse_json(file.read_bytes(), str(file)) if file.exists() else []
    both = [row for row in earlier if key(row) not in new] + list(rows)
    write_text(file, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in both) + "\n]\n")


def save_pictures(folder: Path, task: str, examples: Sequence[Example]) -> None:
    """Save each example's picture (of a video the first), at most 256 pixels wide and high.

    Its file is that of :func:`flamingo.utils.names.picture_path`; a file that is there stays as it is.
    """
    for example in examples:
        path = picture_path(folder, task, example.id)
        if not path.exists():
            picture = open_image(example.image.frames[0])
            picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
            with atomic_file(path, "wb") as stream:
                picture.save(stream, format="PNG")


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
