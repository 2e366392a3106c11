"""The result file in_context.json: its schema, and all reading and writing of it.

Rows are JSON objects. Each is an in-context measure of a setting: a mean over queries, with its interval.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from flamingo.results import SettingOfTask, Types, check_row
from flamingo.row_fields import NUMBER, Interval, read_interval, read_setting
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.reading import read_json

#: The rates at which outputs, and references of the queries, equal demonstrations.
COPY_RATE, REFERENCE_RATE = "copy_rate", "reference_rate"
#: The parts of both rates: equal tokens, and a ROUGE-L of at least 0.9.
EXACT, ROUGE_L = "exact", "ROUGE-L"
#: Gated cross-attention at the last token of the prompt.
GATED_ENTROPY, GATED_NORM = "gated_entropy", "gated_norm"
#: Shares of the self-attention of the last token of the prompt.
SELF_ATTENTION = "self_attention"
#: Its parts: the first token of the prompt, and the other tokens of demonstrations and query. Images are the positions
#: of their markers or visual tokens.
FIRST_TOKEN = "first_token"
DEMONSTRATION_TEXT, DEMONSTRATION_IMAGE = "demonstration_text", "demonstration_image"
QUERY_TEXT, QUERY_IMAGE = "query_text", "query_image"
MEASURES = (COPY_RATE, REFERENCE_RATE, GATED_ENTROPY, GATED_NORM, SELF_ATTENTION)


@dataclass(frozen=True)
class Measure:
    """An in-context measure: the mean over the queries of a setting, with its 95% interval."""

    setting: SettingOfTask
    seed: int
    #: A name of MEASURES.
    name: str
    #: Of a demonstration from the query: 1 is the last demonstration. None: not of one demonstration.
    distance: int | None
    #: The index of the layer of the language model. None: not of one layer.
    layer: int | None
    #: The part of the measure, such as the kind of tokens that are attended to. None: it has no parts.
    part: str | None
    value: float
    ci95: Interval
    #: The number of queries with a value.
    n: int


_OPTIONAL_INT = (int, type(None))
_TYPES: Types = {
    "setting": (dict,),
    "seed": (int,),
    "name": (str,),
    "distance": _OPTIONAL_INT,
    "layer": _OPTIONAL_INT,
    "part": (str, type(None)),
    "value": NUMBER,
    "ci95": (list, type(None)),
    "n": (int,),
}


def save_measures(path: Path, measures: Sequence[Measure]) -> None:
    """Adds measures to ``in_context.json``, in place of its earlier rows with the same setting, seed and name."""
    groups = _grouped(read_measures(path)) if path.exists() else {}
    groups.update(_grouped(measures))  # an earlier group keeps its place: equal measures make an equal file
    lines = []
    for measure in chain.from_iterable(groups.values()):
        lines.append(json.dumps(asdict(measure), ensure_ascii=False, allow_nan=False))
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_measures(path: Path) -> list[Measure]:
    """Returns the rows of ``in_context.json``.

    Raises:
        UserError: If the file cannot be read, or a field is missing or malformed.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of measures")
    return [_measure(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def _grouped(measures: Iterable[Measure]) -> dict[tuple[SettingOfTask, int, str], list[Measure]]:
    """Returns the measures by setting, seed and name."""
    groups: dict[tuple[SettingOfTask, int, str], list[Measure]] = {}
    for measure in measures:
        group = (measure.setting, measure.seed, measure.name)
        groups.setdefault(group, []).append(measure)
    return groups


def _measure(row: Any, origin: str) -> Measure:
    check_row(row, _TYPES, origin)
    if row["name"] not in MEASURES:
        raise UserError(f"{origin}: 'name' must be one of {', '.join(MEASURES)}, got {row['name']!r:.80}")
    if not math.isfinite(row["value"]):
        raise UserError(f"{origin}: 'value' must be finite, got {row['value']!r}")
    return Measure(
        setting=read_setting(row["setting"], origin),
        seed=row["seed"],
        name=row["name"],
        distance=row["distance"],
        layer=row["layer"],
        part=row["part"],
        value=float(row["value"]),
        ci95=read_interval("ci95", row["ci95"], origin),
        n=row["n"],
    )
