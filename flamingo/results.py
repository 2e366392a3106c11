"""The result files predictions.jsonl and scores.json: their schema, and all reading and writing of them.

Rows are JSON objects. Rows of predictions and of scores begin with the fields of a setting. Every error names the file
and the row.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.utils.errors import UserError
from flamingo.utils.io import append, write_text
from flamingo.utils.reading import complete_rows, read_json, rows

Row = dict[str, Any]
"""A row of predictions or of scores."""

Types = Mapping[str, tuple[type, ...]]
"""The fields of a row, and the types that each may have."""
_NUMBER = (int, float)
_OPTIONAL_TEXT = (str, type(None))

#: The fields that identify a setting.
SETTING: Types = {
    "task": (str,),
    "shots": (int,),
    "demonstrations": _OPTIONAL_TEXT,
    "support": _OPTIONAL_TEXT,
    "control": _OPTIONAL_TEXT,
    "template": _OPTIONAL_TEXT,
    "decoding": (str,),
    "seed": (int,),
}
#: The further fields of a prediction.
PREDICTION: Types = {
    "order": (int,),
    "query": (str,),
    "demonstration_ids": (list,),
    "demonstration_answers": (list,),
    "prompt": (str,),
    "output": (str,),
    "references": (list,),
    "scores": (dict,),
}
#: The further fields of a score. Corpus metrics add ``references`` and ``language``, CIDEr also ``document_frequency``.
#: Tasks whose demonstrations alternate between classes add ``shots_per_class``.
SCORE: Types = {
    "metric": (str,),
    "value": _NUMBER,
    "ci95": (list, type(None)),
    "n": (int,),
}


@dataclass(frozen=True)
class SettingOfTask:
    """The setting that a task was evaluated in, as the result files identify it, without the seed."""

    task: str
    shots: int
    demonstrations: str | None
    #: The data set of the demonstrations; None: the task's own support.
    support: str | None
    control: str | None
    #: The template of captions; None: the checkpoint's.
    template: str | None
    decoding: str

    @property
    def control_name(self) -> str:
        """The control as tables name it; empty if there is none."""
        return (self.control or "").replace("_", " ")

    @property
    def selection_name(self) -> str:
        """How demonstrations are chosen, as tables name it; ``none`` without demonstrations."""
        name = (self.demonstrations or "none").replace("_", " ")
        return name.replace("rices ", "RICES by ").replace("rices", "RICES")

    @property
    def support_name(self) -> str:
        """The data set of the demonstrations as tables name it; empty for the task's own support."""
        return "" if self.support is None else f"support {self.support}"

    @property
    def series(self) -> str:
        """The curve that this setting belongs to; empty for random demonstrations without further changes."""
        selection = "" if self.demonstrations in (None, "random") else self.selection_name
        names = [self.control_name, selection, self.support_name, self.template or ""]
        return ", ".join(name for name in names if name)


@dataclass(frozen=True)
class Score:
    """A metric's value over ``n`` queries in a setting, with its 95% interval (None: not estimated)."""

    setting: SettingOfTask
    seeds: tuple[int, ...]
    metric: str
    value: float
    ci95: tuple[float, float] | None
    n: int
    #: Of the captions that a corpus metric compares; None for other metrics.
    language: str | None


@dataclass(frozen=True)
class Prediction:
    """The model's output for one query."""

    setting: SettingOfTask
    seed: int
    query: str
    demonstration_ids: tuple[str, ...]
    #: The caption or answer that each demonstration shows.
    demonstration_answers: tuple[str, ...]
    prompt: str
    output: str
    references: tuple[str, ...]
    scores: dict[str, float]


def setting_key(row: Row) -> tuple[Any, ...]:
    """Returns the values that identify the setting of a row of predictions or of scores."""
    return tuple(row[name] for name in SETTING)


# ------------------------------------------------------------------------------- predictions


def read_prediction_rows(path: Path) -> list[Row]:
    """Returns the rows of ``predictions.jsonl``, without a last line that was cut off. A missing file has no rows.

    Raises:
        UserError: For a line that is not a prediction.
    """
    predictions = []
    for origin, row in complete_rows(path):
        _check_prediction(row, origin)
        predictions.append(row)
    return predictions


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Yields the predictions with the first order of the demonstrations. The file may be larger than memory.

    Raises:
        UserError: For a line that is not a prediction.
    """
    for origin, row in rows(path):
        _check_prediction(row, origin)
        if row["order"] == 0:
            yield _prediction(row)


def append_predictions(path: Path, rows: Sequence[Row]) -> None:
    """Appends rows. They are on disk when the call returns."""
    append(path, _prediction_lines(rows).encode())


def write_predictions(path: Path, rows: Sequence[Row]) -> None:
    """Replaces the file's rows if they differ."""
    text = _prediction_lines(rows)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)


def _prediction_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _check_prediction(row: Row, origin: str) -> None:
    check_row(row, SETTING, origin)
    check_row(row, PREDICTION, origin)
    for name in ("demonstration_ids", "demonstration_answers", "references"):
        if not all(isinstance(text, str) for text in row[name]):
            raise UserError(f"{origin}: {name!r} must hold strings, got {row[name]!r:.80}")
    if len(row["demonstration_ids"]) != len(row["demonstration_answers"]):
        raise UserError(f"{origin}: 'demonstration_ids' and 'demonstration_answers' must have equal lengths")
    if not all(isinstance(value, _NUMBER) for value in row["scores"].values()):
        raise UserError(f"{origin}: 'scores' must hold numbers, got {row['scores']!r:.80}")


def _prediction(row: Row) -> Prediction:
    return Prediction(
        setting=setting_of(row),
        seed=row["seed"],
        query=row["query"],
        demonstration_ids=tuple(row["demonstration_ids"]),
        demonstration_answers=tuple(row["demonstration_answers"]),
        prompt=row["prompt"],
        output=row["output"],
        references=tuple(row["references"]),
        scores={metric: float(value) for metric, value in row["scores"].items()},
    )


# ------------------------------------------------------------------------------- scores


def save_scores(path: Path, rows: Sequence[Row]) -> None:
    """Adds rows to ``scores.json``, and removes its earlier scores of the same settings."""
    replaced = {setting_key(row) for row in rows}
    earlier = read_json(path) if path.exists() else []
    kept = [row for row in earlier if setting_key(row) not in replaced]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in list(kept) + list(rows)]
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_scores(path: Path) -> list[Score]:
    """Returns the scores of ``scores.json``.

    Raises:
        UserError: If the file cannot be read or has no scores, a field is missing or malformed, or two rows have the
            same setting and metric.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of scores")
    if not rows:
        raise UserError(
            f"{path} is empty: no output was scored, as without references; the outputs are in predictions.jsonl"
        )
    scores = [score_of(row, f"{path}, row {number}") for number, row in enumerate(rows)]
    seen = set()
    for number, score in enumerate(scores):
        identity = (score.setting, score.seeds, score.metric)
        if identity in seen:
            raise UserError(f"{path}, row {number} repeats {score.metric} of {score.setting}, seed {score.seeds[0]}")
        seen.add(identity)
    return scores


def score_of(row: Any, origin: str) -> Score:
    """Returns the score of a row.

    Args:
        row: The row.
        origin: The file and the row, for errors.

    Raises:
        UserError: For a missing or malformed field.
    """
    check_row(row, SETTING, origin)
    check_row(row, SCORE, origin)
    value, ci95 = row["value"], row["ci95"]
    numbers = [value] if ci95 is None else [*ci95, value]
    if not all(isinstance(number, _NUMBER) and math.isfinite(number) for number in numbers):
        raise UserError(f"{origin}: 'value' and 'ci95' must be finite numbers, got {value!r} and {ci95!r}")
    interval = None
    if ci95 is not None:
        if len(ci95) != 2 or ci95[0] > ci95[1]:
            raise UserError(f"{origin}: 'ci95' must be [low, high], got {ci95!r}")
        interval = (float(ci95[0]), float(ci95[1]))
    return Score(
        setting=setting_of(row),
        seeds=(row["seed"],),
        metric=row["metric"],
        value=float(value),
        ci95=interval,
        n=row["n"],
        language=row.get("language"),
    )


# ------------------------------------------------------------------------------- rows


def setting_of(row: Row) -> SettingOfTask:
    """Returns the setting of a row that has the fields of one."""
    return SettingOfTask(
        task=row["task"],
        shots=row["shots"],
        demonstrations=row["demonstrations"],
        support=row["support"],
        control=row["control"],
        template=row["template"],
        decoding=row["decoding"],
    )


def check_row(row: Any, types: Types, origin: str) -> None:
    """Checks that the row has these fields with these types.

    Raises:
        UserError: If a field is missing, or has another type.
    """
    if not isinstance(row, dict):
        raise UserError(f"{origin} must be a JSON object, got {row!r:.80}")
    for name, allowed in types.items():
        if name not in row:
            raise UserError(f"{origin} lacks {name!r}")
        if not isinstance(row[name], allowed):
            raise UserError(f"{origin}: {name!r} must not be {row[name]!r:.80}")
