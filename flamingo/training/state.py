"""The state of a training, from which a killed run resumes bit for bit."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flamingo.data.drops import Drops
from flamingo.model.checkpoints import fingerprint_of
from flamingo.training.optim.groups import check_shapes
from flamingo.training.step import DataSet, Update
from flamingo.utils.checksums import checksum
from flamingo.utils.devices import processes, wait_for_processes
from flamingo.utils.differences import differences
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file, file_errors, sync_folder, write_text
from flamingo.utils.reading import json_object

_CHECKSUMS = "checksums.json"


@dataclass
class Progress:
    """Steps done, label tokens and dropped images of all processes, seconds, and the last loss of each data set."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    dropped_images: int = 0
    #: What streamed samples lost, by reason.
    drops: dict[str, int] = field(default_factory=dict)

    def after(self, update: Update) -> "Progress":
        """Returns the progress after one more step, which the device may still compute."""
        tokens = self.tokens + sum(update.tokens.values())
        dropped_images = self.dropped_images + update.dropped_images
        return replace(self, step=self.step + 1, tokens=tokens, dropped_images=dropped_images)

    def measured(self, losses: Mapping[str, float], drops: Drops, seconds: float) -> "Progress":
        """Returns the progress with losses that were read from the device, new drops, and the seconds until then."""
        all_drops = dict(Counter(self.drops) + drops)
        return replace(self, losses=self.losses | dict(losses), drops=all_drops, seconds=seconds)


@dataclass
class StateFolder:
    """The newest state of a run, in ``folder / step-00000100``.

    ``common.pt`` has the state that all processes share: the trained parameters (not the frozen ones), the buffers
    (running statistics), the optimizer, the schedule, the progress, the positions in the data sets, and ``identity``,
    the settings of the run it belongs to. ``process-0.pt`` has the state of one process: random states.
    If all data sets are shared, a state may be restored by another number of processes; new processes then begin with
    random states of their own.
    ``checksums.json`` has a checksum of each file. A folder gets its name when all of it is on disk, and only then the
    earlier state is removed. All processes must see the same file system.
    """

    folder: Path
    identity: dict[str, Any]
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    data_sets: Sequence[DataSet]

    def __post_init__(self) -> None:
        frozen = [parameter for parameter in self.model.parameters() if not parameter.requires_grad]
        self.identity = dict(self.identity)
        if not self._shared():
            self.identity["processes"] = processes().num_processes
        self.identity["frozen parameters"] = fingerprint_of(frozen)

    def save(self, progress: Progress) -> Path:
        """Returns the folder of the state, which is written unless it exists."""
        folder = self.folder / f"step-{progress.step:08d}"
        unfinished = folder.with_suffix(".tmp")
        if folder.exists():
            return folder
        main_process = processes().is_main_process
        if main_process:
            with file_errors(unfinished):
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
            _save(common, unfinished / "common.pt")
        wait_for_processes()
        _save({"random": random_states()}, unfinished / self._process_file())
        wait_for_processes()
        if main_process:
            checksums = {path.name: checksum(path) for path in sorted(unfinished.glob("*.pt"))}
            write_text(unfinished / _CHECKSUMS, json.dumps(checksums, indent=1))
            with file_errors(folder):
                unfinished.rename(folder)
                sync_folder(self.folder)
            for older in self._complete()[:-1]:
                shutil.rmtree(older, ignore_errors=True)
        wait_for_processes()
        return folder

    def restore(self) -> Progress:
        """Returns the progress of the newest complete state, which is loaded; without a state that of a new run.

        Unfinished states of killed runs are removed.

        Raises:
            UserError: If a state is damaged, or belongs to another run; nothing is changed then.
        """
        if processes().is_main_process:
            for unfinished in self.folder.glob("step-*.tmp"):
                shutil.rmtree(unfinished)
        wait_for_processes()
        complete = self._complete()
        if not complete:
            return Progress()
        newest = complete[-1]
        common = _load(newest, "common.pt")
        trained, buffers = self._trained(), self._buffers()
        saved_shapes = {"parameters": _shapes(common["parameters"]), "buffers": _shapes(common["buffers"])}
        shapes = {"parameters": _shapes(trained), "buffers": _shapes(buffers)}
        is_shorter = _planned_steps(common["identity"]) < _planned_steps(self.identity)
        may_change = ("training.steps",) if is_shorter else ()  # a run may train longer than it first planned
        different = differences(common["identity"] | saved_shapes, self.identity | shapes, may_change)
        if different:
            raise UserError(f"{newest} is the state of another run: {'; '.join(different)}")
        process = None
        if not self._shared() or (newest / self._process_file()).exists():
            process = _load(newest, self._process_file())
        check_shapes(self.optimizer, common["optimizer"])
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(common["parameters"][name])
            for name, buffer in buffers.items():
                buffer.copy_(common["buffers"][name])
        self.optimizer.load_state_dict(common["optimizer"])
        self.schedule.load_state_dict(common["schedule"])
        for data_set in self.data_sets:
            data_set.batches.position = common["positions"][data_set.name]
        if process is not None:
            set_random_states(process["random"])
        return Progress(**common["progress"])

    def _shared(self) -> bool:
        """Returns whether the number of processes changes no update."""
        return all(data_set.shared for data_set in self.data_sets)

    def _process_file(self) -> str:
        return f"process-{processes().process_index}.pt"

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _buffers(self) -> dict[str, torch.Tensor]:
        """Returns the buffers that a checkpoint of the model would contain."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: value for name, value in self.model.state_dict().items() if name not in parameters}

    def _complete(self) -> list[Path]:
        """Returns the folders of complete states, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".tmp")


def _planned_steps(identity: Mapping[str, Any]) -> int:
    return identity.get("training", {}).get("steps", 0)


def _save(content: dict[str, Any], file: Path) -> None:
    with atomic_file(file, "wb") as stream:
        torch.save(content, stream)


def _load(folder: Path, name: str) -> dict[str, Any]:
    """Returns the content of a state's file.

    Raises:
        UserError: If it is damaged; the error names the file.
    """
    file, checksums = folder / name, folder / _CHECKSUMS
    remedy = f"remove {folder}, and training continues from the state before it, or from the beginning"
    try:
        written = json_object(checksums.read_bytes(), str(checksums)).get(name)
        damaged = checksum(file) != written
    except (OSError, UserError) as error:
        raise UserError(f"{folder} is damaged ({error}): {remedy}") from error
    if damaged:
        raise UserError(f"{file} is damaged (its checksum is not that of {_CHECKSUMS}): {remedy}")
    return torch.load(file, map_location="cpu", weights_only=True)


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items()}


def random_states() -> dict[str, Any]:
    """Returns the states of Python, NumPy, torch and this process's CUDA device, readable with ``weights_only``."""
    name, key, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Sets the states that :func:`random_states` has returned."""
    random.setstate(states["python"])
    name, key, *rest = states["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def untouched_random_states() -> Iterator[None]:
    """Restores the random states at the end of the block."""
    before = random_states()
    try:
        yield
    finally:
        set_random_states(before)
