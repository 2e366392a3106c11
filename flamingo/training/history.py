"""history.jsonl: what a run has logged, one record a line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text


@dataclass
class History:
    """Records are dicts with a ``step``, in rising order."""

    path: Path

    def append(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def keep_until(self, step: int) -> None:
        """Drop later records, and the half line of a killed run: they are going to be written again.

        Raises UserError, naming the line, for one before them that cannot be read.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        kept = []
        for number, line in enumerate(self.path.read_text().splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                break
            try:
                later = json.loads(line)["step"] > step
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}, line {number}: not a record of a training run") from error
            if later:
                break
            kept.append(line)
        write_text(self.path, "".join(kept))
