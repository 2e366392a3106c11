"""The state that a killed run goes on from, as if it had never stopped."""

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flamingo.training.objective import DataSet
from flamingo.utils.errors import UserError


@dataclass
class Progress:
    """How far a run has come: steps done, label tokens of all processes, seconds, the last loss by data set."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


@dataclass
class StateFolder:
    """The newest state of a run, in ``folder / step-00000100``.

    ``common.pt`` has what all processes share: the trained parameters (not the frozen ones), the
    buffers (running statistics), the optimizer, the schedule, the progress, the positions in the
    data sets, and ``identity``, which tells what run it belongs to; ``process-0.pt`` what each has
    for itself: random states. A folder gets its name when all is written, and only then the one before
    it is removed. All processes must see the same file system.
    """

    folder: Path
    identity: dict[str, Any]
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    data_sets: Sequence[DataSet]
    accelerator: Accelerator

    def __post_init__(self) -> None:
        self.identity = {**self.identity, "processes": self.accelerator.num_processes}
        self.identity["parameters"] = {
            name: f"{str(p.dtype).removeprefix('torch.')} {list(p.shape)}" for name, p in self._trained().items()
        }

    def save(self, progress: Progress) -> Path:
        """Write the state, unless it is there already; returns its folder."""
        folder = self.folder / f"step-{progress.step:08d}"
        unfinished = folder.with_suffix(".tmp")
        if folder.exists():
            return folder
        main, wait = self.accelerator.is_main_process, self.accelerator.wait_for_everyone
        if main:
            unfinished.mkdir(parents=True)
            common = {
                "identity": self.identity,
                "progress": asdict(progress),
                "parameters": {name: parameter.detach() for name, parameter in self._trained().items()},
                "buffers": self._buffers(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "positions": {data_set.name: data_set.batches.position for data_set in self.data_sets},
            }
            torch.save(common, unfinished / "common.pt")
        wait()
        process = f"process-{self.accelerator.process_index}.pt"
        torch.save({"random": random_states()}, unfinished / process)
        wait()
        if main:
            unfinished.rename(folder)
            for older in self._complete()[:-1]:
                shutil.rmtree(older)
        wait()
        return folder

    def restore(self) -> Progress:
        """Put the newest complete state back, if there is one; what a killed run left half-written is removed.

        Raises UserError, saying what differs, for the state of another run; nothing is changed then.
        """
        if self.accelerator.is_main_process:
            for unfinished in self.folder.glob("step-*.tmp"):
                shutil.rmtree(unfinished)
        self.accelerator.wait_for_everyone()
        if not (complete := self._complete()):
            return Progress()
        common = torch.load(complete[-1] / "common.pt", map_location="cpu", weights_only=True)
        if different := _differences(common["identity"], self.identity):
            raise UserError(f"{complete[-1]} is the state of another run: {'; '.join(different)}")
        mine = f"process-{self.accelerator.process_index}.pt"
        own = torch.load(complete[-1] / mine, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(common["parameters"][name])
            for name, buffer in self._buffers().items():
                buffer.copy_(common["buffers"][name])
        self.optimizer.load_state_dict(common["optimizer"])
        self.schedule.load_state_dict(common["schedule"])
        for data_set in self.data_sets:
            data_set.batches.position = common["positions"][data_set.name]
        set_random_states(own["random"])
        return Progress(**common["progress"])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _buffers(self) -> dict[str, torch.Tensor]:
        """Those that a checkpoint of the model would hold."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: value for name, value in self.model.state_dict().items() if name not in parameters}

    def _complete(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".tmp")


def random_states() -> dict[str, Any]:
    """Of Python, NumPy, torch and this process's CUDA device, of types that can be read with ``weights_only``."""
    name, key, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    name, key, *rest = states["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def untouched_random_states() -> Iterator[None]:
    """Whatever is drawn inside, training goes on as if nothing had been."""
    before = random_states()
    try:
        yield
    finally:
        set_random_states(before)


def _differences(theirs: dict[str, Any], mine: dict[str, Any], prefix: str = "") -> list[str]:
    different = []
    for key in sorted({*theirs, *mine}):
        name, there, here = f"{prefix}{key}", theirs.get(key, "absent"), mine.get(key, "absent")
        if isinstance(there, dict) and isinstance(here, dict):
            different += _differences(there, here, f"{name}.")
        elif there != here:
            different.append(f"{name} is {there} there and {here} here")
    return different
