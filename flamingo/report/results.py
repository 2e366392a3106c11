"""The files of a finished run -> checked rows. Every error names the file and the row."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from flamingo.utils.errors import UserError
from flamingo.utils.io import json_object, parse_json

Number = (int, float)
_Types = dict[str, tuple[type, ...]]
_NULLABLE_TEXT = (str, type(None))
_SETTING: _Types = {
    "task": (str,),
    "shots": (int,),
    "demonstrations": _NULLABLE_TEXT,
    "control": _NULLABLE_TEXT,
    "decoding": (str,),
    "seed": (int,),
}
_SCORE: _Types = _SETTING | {"metric": (str,), "value": Number, "ci95": (list, type(None)), "n": (int,)}
_PREDICTION: _Types = _SETTING | {
    "order": (int,),
    "query": (str,),
    "demonstration_ids": (list,),
    "prompt": (str,),
    "output": (str,),
    "references": (list,),
    "scores": (dict,),
}
_RECORD: _Types = {"step": (int,), "loss": Number, "gates": (dict,)}

#: The order in which controls are told, and how they are called in plots and tables.
CONTROLS = {
    None: "",
    "blind": "blind",
    "shuffled_images": "shuffled images",
    "shuffled_captions": "shuffled captions",
    "copied_caption": "copied caption",
}
_DEMONSTRATIONS = {None: "", "random": "", "text_only": "text only", "rices": "RICES"}


@dataclass(frozen=True)
class Setting:
    """How a task was put to the model: design of ``scores.json``, without the seed."""

    task: str
    shots: int
    demonstrations: str | None
    control: str | None
    decoding: str

    @property
    def series(self) -> str:
        """The curve that this setting lies on: empty for the plain one, with randomly drawn demonstrations."""
        names = (
            CONTROLS.get(self.control, self.control),
            _DEMONSTRATIONS.get(self.demonstrations, self.demonstrations),
        )
        return ", ".join(name for name in names if name)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts plain settings before controls, greedy decoding before others, then by shots."""
        known = list(CONTROLS)
        place = known.index(self.control) if self.control in known else len(known)
        return (place, self.control or "", self.decoding != "greedy", self.decoding, self.series, self.shots)


@dataclass(frozen=True)
class Score:
    """A metric's value in a setting, as the scorer gives it, with its 95% interval (None: not estimated)."""

    setting: Setting
    seeds: tuple[int, ...]
    metric: str
    value: float
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Prediction:
    """What the model answered to one query."""

    setting: Setting
    seed: int
    query: str
    demonstration_ids: tuple[str, ...]
    prompt: str
    output: str
    references: tuple[str, ...]
    scores: dict[str, float]


def read_scores(path: Path) -> list[Score]:
    """``scores.json``. Raises UserError for what is missing or malformed, and for two rows of the same setting."""
    rows = parse_json(_text(path), str(path))
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} must be a list of at least one score")
    scores = [_score(row, f"{path}, row {i}") for i, row in enumerate(rows)]
    seen: set[tuple[Any, ...]] = set()
    for i, score in enumerate(scores):
        key = (score.setting, score.seeds, score.metric)
        if key in seen:
            raise UserError(f"{path}, row {i} repeats {score.metric} of {score.setting}, seed {score.seeds[0]}")
        seen.add(key)
    return scores


def read_predictions(path: Path) -> Iterator[Prediction]:
    """``predictions.jsonl`` with the first order of the demonstrations, row by row: it may be larger than memory."""
    for where, row in _lines(path):
        _check(row, _PREDICTION, where)
        ids, references = tuple(row["demonstration_ids"]), tuple(row["references"])
        if not all(isinstance(text, str) for text in ids + references):
            raise UserError(f"{where}: 'demonstration_ids' and 'references' must hold strings")
        if not all(isinstance(value, Number) for value in row["scores"].values()):
            raise UserError(f"{where}: 'scores' must hold numbers, got {row['scores']!r:.80}")
        if row["order"] == 0:
            scores = {metric: float(value) for metric, value in row["scores"].items()}
            yield Prediction(
                _setting(row), row["seed"], row["query"], ids, row["prompt"], row["output"], references, scores
            )


def read_history(path: Path) -> list[dict[str, Any]]:
    """``history.jsonl`` of a training, in the order of its steps."""
    records = []
    for where, record in _lines(path):
        _check(record, _RECORD, where)
        values = record["gates"] | {key: value for key, value in record.items() if key.startswith("loss")}
        for key, value in values.items():
            if not isinstance(value, Number):
                raise UserError(f"{where}: {key!r} must be a number, got {value!r}")
        records.append(record)
    return records


def mean_over_seeds(scores: Iterable[Score]) -> list[Score]:
    """One score per setting and metric: the mean of the values, and of the ends of the intervals.

    The mean of the ends is no interval of the mean, but wider: the seeds share their queries, so
    that the queries' part of the variance does not shrink with more seeds.
    """
    groups: dict[tuple[Setting, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.setting, score.metric), []).append(score)
    means = []
    for group in groups.values():
        intervals = [score.ci95 for score in group if score.ci95 is not None]
        low, high = (fmean(ends) for ends in zip(*intervals, strict=True)) if intervals else (0.0, 0.0)
        means.append(
            replace(
                group[0],
                seeds=tuple(sorted(seed for score in group for seed in score.seeds)),
                value=fmean(score.value for score in group),
                ci95=(low, high) if len(intervals) == len(group) else None,
                n=min(score.n for score in group),
            )
        )
    return means


def main_decoding(decodings: Iterable[str]) -> str:
    """The decoding that curves and examples show: greedy where it was run."""
    found = sorted(set(decodings))
    return "greedy" if "greedy" in found else found[0]


# ------------------------------------------------------------------------------- reading


def _score(row: Any, where: str) -> Score:
    _check(row, _SCORE, where)
    value, ci95 = row["value"], row["ci95"]
    ends = [value] if ci95 is None else [*ci95, value]
    if not all(isinstance(end, Number) and math.isfinite(end) for end in ends):
        raise UserError(f"{where}: 'value' and 'ci95' must be finite numbers, got {value!r} and {ci95!r}")
    if ci95 is not None and (len(ci95) != 2 or ci95[0] > ci95[1]):
        raise UserError(f"{where}: 'ci95' must be [low, high], got {ci95!r}")
    interval = None if ci95 is None else (float(ci95[0]), float(ci95[1]))
    return Score(_setting(row), (row["seed"],), row["metric"], float(value), interval, row["n"])


def _setting(row: dict[str, Any]) -> Setting:
    return Setting(row["task"], row["shots"], row["demonstrations"], row["control"], row["decoding"])


def _check(row: Any, types: _Types, where: str) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where}: an object is needed, got {row!r:.80}")
    for key, allowed in types.items():
        if key not in row:
            raise UserError(f"{where} lacks {key!r}")
        if not isinstance(row[key], allowed):
            raise UserError(f"{where}: {key!r} must not be {row[key]!r:.80}")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            yield where, json_object(line, where)


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    return path.read_text(encoding="utf-8")
