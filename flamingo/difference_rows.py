"""The result file differences.json: its schema, and all reading and writing of it.

Rows are JSON objects. Each is a difference of two scores of the same queries, or a figure of a few-shot curve.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flamingo.results import SettingOfTask, Types, check_row
from flamingo.row_fields import NUMBER, Interval, read_interval, read_setting
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.reading import read_json

#: Kinds of comparisons: a setting with 0 shots, with the next smaller number of shots, and with its own control; one
#: with the demonstrations of another data set with that of the task's own support; a variant with the baseline.
ZERO_SHOT, FEWER_SHOTS, CONTROL = "zero_shot", "fewer_shots", "control"
OWN_SUPPORT, BASELINE = "own_support", "baseline"
#: The figures of a few-shot curve.
SLOPE, ICL_EFFICIENCY = "slope", "icl_efficiency"
KINDS = (ZERO_SHOT, FEWER_SHOTS, CONTROL, OWN_SUPPORT, BASELINE, SLOPE, ICL_EFFICIENCY)
#: The source of variance, besides new queries, that the interval of a row covers.
QUERIES_ALONE, DRAWS, TRAININGS = "queries alone", "draws of demonstrations", "trainings"


@dataclass(frozen=True)
class Difference:
    """A difference of two scores of the same queries, or a figure of a few-shot curve, with its 95% intervals.

    Intervals and p-values are those of one test; ``adjusted_p`` is adjusted for all tests of its task in the file.
    """

    kind: str
    setting: SettingOfTask
    #: The setting that is subtracted; None for a figure of a curve.
    subtracted: SettingOfTask | None
    #: The variant of the runs, and the baseline that is subtracted; None within one run.
    variant: str | None
    baseline: str | None
    #: The numbers of shots of the scores.
    shots: tuple[int, ...]
    metric: str
    #: In the unit of the metric; a slope's is per doubling of the shots.
    value: float
    #: Over queries, by the percentiles of the resamples, and with BCa's corrections.
    percentile: Interval
    bca: Interval
    #: Over queries and seeds; None if the level is queries alone.
    over_seeds: Interval
    #: The degrees of freedom of ``over_seeds``.
    degrees_of_freedom: float | None
    p: float | None
    adjusted_p: float | None
    #: "real", "absent" or "undecided"; None for a figure of a curve.
    mark: str | None
    margin: float
    #: The source of variance, besides new queries, that the interval covers.
    level: str
    #: The seeds of each score.
    seeds: tuple[int, ...]
    #: The number of queries with a value in all scores.
    n: int

    @property
    def interval(self) -> Interval:
        """The interval that tables show and that the mark depends on."""
        return self.bca if self.over_seeds is None else self.over_seeds


_OPTIONAL_NUMBER = (int, float, type(None))
_OPTIONAL_TEXT = (str, type(None))
_TYPES: Types = {
    "kind": (str,),
    "setting": (dict,),
    "subtracted": (dict, type(None)),
    "variant": _OPTIONAL_TEXT,
    "baseline": _OPTIONAL_TEXT,
    "shots": (list,),
    "metric": (str,),
    "value": NUMBER,
    "percentile": (list, type(None)),
    "bca": (list, type(None)),
    "over_seeds": (list, type(None)),
    "degrees_of_freedom": _OPTIONAL_NUMBER,
    "p": _OPTIONAL_NUMBER,
    "adjusted_p": _OPTIONAL_NUMBER,
    "mark": _OPTIONAL_TEXT,
    "margin": NUMBER,
    "level": (str,),
    "seeds": (list,),
    "n": (int,),
}


def save_differences(path: Path, differences: Sequence[Difference], task: str) -> None:
    """Replaces the differences of a task in the file. Those of other tasks stay."""
    earlier = read_differences(path) if path.exists() else []
    kept = [difference for difference in earlier if difference.setting.task != task]
    write_text(path, differences_text(kept + list(differences)))


def differences_text(differences: Sequence[Difference]) -> str:
    """Returns the content of a file of these differences, one row a line."""
    lines = [json.dumps(asdict(difference), ensure_ascii=False, allow_nan=False) for difference in differences]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def read_differences(path: Path) -> list[Difference]:
    """Returns the rows of ``differences.json``.

    Raises:
        UserError: If the file cannot be read, or a field is missing or malformed.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of differences")
    return [_difference(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def _difference(row: Any, origin: str) -> Difference:
    check_row(row, _TYPES, origin)
    if row["kind"] not in KINDS:
        raise UserError(f"{origin}: 'kind' must be one of {', '.join(KINDS)}, got {row['kind']!r:.80}")
    subtracted = row["subtracted"]
    return Difference(
        kind=row["kind"],
        setting=read_setting(row["setting"], origin),
        subtracted=None if subtracted is None else read_setting(subtracted, origin),
        variant=row["variant"],
        baseline=row["baseline"],
        shots=tuple(row["shots"]),
        metric=row["metric"],
        value=float(row["value"]),
        percentile=read_interval("percentile", row["percentile"], origin),
        bca=read_interval("bca", row["bca"], origin),
        over_seeds=read_interval("over_seeds", row["over_seeds"], origin),
        degrees_of_freedom=row["degrees_of_freedom"],
        p=row["p"],
        adjusted_p=row["adjusted_p"],
        mark=row["mark"],
        margin=float(row["margin"]),
        level=row["level"],
        seeds=tuple(row["seeds"]),
        n=row["n"],
    )
