"""The result file history.jsonl, the records of a training: its schema, and all reading and writing of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.results import Types, check_row
from flamingo.utils.errors import UserError
from flamingo.utils.io import append, sync, write_text
from flamingo.utils.reading import complete_rows, rows

_NUMBER = (int, float)
#: The required fields of a record of the history. Optional ones are ``loss/NAME`` for each data set, ``gates``, and
#: ``dropped_images`` where documents had too many tokens, and ``dropped/REASON`` for what streamed samples lost.
RECORD: Types = {
    "step": (int,),
    "loss": _NUMBER,
}


@dataclass
class History:
    """The writer of ``history.jsonl``. Records are dicts with a ``step``, in increasing order."""

    path: Path

    def append(self, record: dict[str, Any]) -> None:
        """Appends a record. It is in the page cache when the call returns."""
        append(self.path, _record_line(record).encode(), sync=False)

    def sync(self) -> None:
        """Syncs the records to disk, before a state that depends on them is saved."""
        if self.path.exists():
            sync(self.path)

    def keep_until(self, step: int) -> None:
        """Drops the records after a step, and a line that a kill has cut off. The resumed run writes them again.

        Raises:
            UserError: For an earlier record that cannot be read.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            write_text(self.path, "".join(self._lines_until(step)))

    def _lines_until(self, step: int) -> Iterator[str]:
        for origin, record in complete_rows(self.path):
            if not isinstance(record.get("step"), int):
                raise UserError(f"{origin} has no 'step'")
            if record["step"] > step:
                return
            yield _record_line(record)


def _record_line(record: dict[str, Any]) -> str:
    return f"{json.dumps(record)}\n"


def read_history(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a training, in the order of their steps. A record without ``gates`` gets an empty dict.

    Raises:
        UserError: If the file cannot be read, or a record is malformed.
    """
    records = []
    for origin, record in rows(path):
        check_row(record, RECORD, origin)
        gates = record.setdefault("gates", {})
        if not isinstance(gates, dict):
            raise UserError(f"{origin}: 'gates' must not be {gates!r:.80}")
        losses = {name: value for name, value in record.items() if name.startswith("loss")}
        for name, value in list(gates.items()) + list(losses.items()):
            if not isinstance(value, _NUMBER):
                raise UserError(f"{origin}: {name!r} must be a number, got {value!r}")
        records.append(record)
    return records
