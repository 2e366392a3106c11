"""The content of a training's state."""

import json
from pathlib import Path
from typing import Any

from flamingo.training.state_files import read_tensors


def state_folder(output: Path, step: int) -> Path:
    return output / "state" / f"step-{step:08d}"


def make_complete_state(output: Path) -> None:
    """A state without content, by which the folder belongs to a run."""
    folder = state_folder(output, 1)
    folder.mkdir(parents=True)
    (folder / "complete.json").write_text("{}\n")


def read_state(output: Path, step: int) -> dict[str, Any]:
    """``run.json``, and whole tensors by name: ``parameters``, ``buffers`` and ``optimizer``."""
    folder = state_folder(output, step)
    state: dict[str, Any] = json.loads((folder / "run.json").read_text())
    for part in ("parameters", "buffers", "optimizer"):
        state[part] = read_tensors(folder, f"{part}.")
    return state
