"""The file of golden values, and the comparison with it."""

import json
from pathlib import Path

Numbers = list[float]
Texts = list[str]
#: Of one case: by a key of its own, numbers or texts.
Values = dict[str, Numbers | Texts]

FILE = Path(__file__).with_name("values.json")


def read_values() -> dict[str, Values]:
    """Returns the recorded values by case."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def write_values(values: dict[str, Values]) -> None:
    FILE.write_text(json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def differences(case: str, expected: Values, found: Values, rel: float = 0.0) -> list[str]:
    """Returns a line for each key whose values differ, numbers by more than ``rel`` of the expected one."""
    lines = [f"{case}: only one side has {key!r}" for key in expected.keys() ^ found.keys()]
    for key in sorted(expected.keys() & found.keys()):
        if len(expected[key]) != len(found[key]):
            lines.append(f"{case}: {key} has {len(found[key])} values instead of {len(expected[key])}")
            continue
        for position, (one, other) in enumerate(zip(expected[key], found[key], strict=True)):
            if not _equal(one, other, rel):
                lines.append(f"{case}: {key}[{position}] is {other!r} instead of {one!r}")
    return lines


def _equal(expected: float | str, found: float | str, rel: float) -> bool:
    if isinstance(expected, str) or isinstance(found, str):
        return expected == found
    return abs(expected - found) <= rel * abs(expected)
