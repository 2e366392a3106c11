"""Records of a training without what no two runs share."""

import json
from pathlib import Path
from typing import Any


def reproducible_history(output: Path) -> list[dict[str, Any]]:
    """Returns all records without times, speeds and memory."""
    records = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if not _is_measured(key)} for record in records]


def _is_measured(key: str) -> bool:
    return key in ("seconds", "mfu", "peak_memory") or key.endswith("_per_second") or key.startswith("time/")
