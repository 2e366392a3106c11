"""history.jsonl: what a run has logged, one record a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.utils.errors import UserError
from flamingo.utils.io import append, complete_lines, json_object, sync, write_text


@dataclass
class History:
    """Records are dicts with a ``step``, in rising order."""

    path: Path

    def append(self, record: dict[str, Any]) -> None:
        append(self.path, f"{json.dumps(record)}\n".encode(), sync=False)

    def sync(self) -> None:
        """Write the records from the page cache to disk, before a state that counts on them is saved."""
        if self.path.exists():
            sync(self.path)

    def keep_until(self, step: int) -> None:
        """Drop later records, and the half line of a killed run: they are going to be written again.

        Raises UserError, naming the line, for one before them that cannot be read.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            write_text(self.path, "".join(self._until(step)))

    def _until(self, step: int) -> Iterator[str]:
        for number, line in enumerate(complete_lines(self.path), start=1):
            where = f"{self.path}, line {number}"
            record = json_object(line, where)
            if not isinstance(record.get("step"), int):
                raise UserError(f"{where} is not a record of a training run: it has no step")
            if record["step"] > step:
                return
            yield f"{line.decode()}\n"
