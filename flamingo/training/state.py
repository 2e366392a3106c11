"""The state of a training, from which a killed run resumes bit for bit, in any layout of its processes."""

import io
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flamingo.data.drops import Drops
from flamingo.model.fingerprints import fingerprint_of
from flamingo.training.background import Background
from flamingo.training.random_states import random_states, set_random_states
from flamingo.training.state_files import (
    all_states,
    check_files,
    checksums_of,
    complete_states,
    load_tensors,
    mark_complete,
    remove_state,
    saved_tensors,
    state_folder,
    step_of,
    together,
    write_tensors,
)
from flamingo.training.state_tensors import host_copy, make_optimizer_tensors, model_tensors, shapes_of
from flamingo.training.step import DataSet, Update
from flamingo.utils.devices import processes, wait_for_processes
from flamingo.utils.differences import differences
from flamingo.utils.errors import UserError
from flamingo.utils.io import sync_folder, write_bytes
from flamingo.utils.reading import read_json

log = logging.getLogger(__name__)

#: The settings, the progress, the schedule and the positions in the data.
_RUN_FILE = "run.json"
#: How long a process waits until the others have written their shares. Then the state stays incomplete.
_TIMEOUT = timedelta(minutes=10)


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
    """The states of a run, in ``folder / step-00000100``. All processes must see the same file system.

    A state has the files of torch.distributed.checkpoint: the trained parameters (not the frozen ones), the buffers
    (running statistics) and the optimizer's tensors, by name. ``run.json`` has the schedule, the progress, the
    positions in the data sets, and ``identity``, the settings of the run it belongs to. ``process-0.pt`` has the state
    of one process: random states. ``complete.json`` is written last.

    The layout of the processes may change: a state of two processes that share the weights is restored by four, by one,
    or by processes that have whole copies. If all data sets are shared, their number may change; new processes then
    begin with random states of their own.

    A thread writes while the training continues. As a context manager this class waits for it also if the training
    fails.
    """

    folder: Path
    identity: dict[str, Any]
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    data_sets: Sequence[DataSet]
    #: States of steps that this number divides are kept besides the newest state; 0: none.
    keep_every: int = 0

    def __post_init__(self) -> None:
        frozen = [parameter for parameter in self.model.parameters() if not parameter.requires_grad]
        self.identity = dict(self.identity)
        if not self._shared():
            self.identity["processes"] = processes().num_processes
        self.identity["frozen parameters"] = fingerprint_of(frozen)
        self._group = _writing_group() if processes().num_processes > 1 else None
        self._background = Background()

    def save(self, progress: Progress) -> Path:
        """Returns the folder of the state that a thread begins to write. The state is copied on return.

        The earlier state must be finished: see :meth:`finish`.
        """
        folder = state_folder(self.folder, progress.step)
        number, num_processes = processes().process_index, processes().num_processes
        random_file = io.BytesIO()
        torch.save({"random": random_states()}, random_file)
        files = {_process_file(number): random_file.getvalue()}
        if number == 0:
            run = {
                "identity": self.identity,
                "progress": asdict(progress),
                "schedule": self.schedule.state_dict(),
                "positions": {data_set.name: data_set.batches.position for data_set in self.data_sets},
            }
            files[_RUN_FILE] = json.dumps(run, indent=1).encode()
        tensors = host_copy(self.model, self.optimizer, number, num_processes)
        self._background.start(lambda: self._write(folder, tensors, files))
        return folder

    def _write(self, folder: Path, tensors: Mapping[str, Shaped[Tensor, "..."]], files: Mapping[str, bytes]) -> None:
        """Writes a state together with the other processes: its tensors, other files, and last the marker."""
        write_tensors(folder, tensors, self._group)
        checksums = together(lambda: _write_files(folder, files), self._group)
        together(lambda: self._complete(folder, checksums), self._group)

    def _complete(self, folder: Path, checksums: Sequence[Mapping[str, str]]) -> None:
        if processes().process_index == 0:
            of_all: dict[str, str] = {}
            for of_process in checksums:
                of_all.update(of_process)
            mark_complete(folder, of_all)
            sync_folder(self.folder)
            self._remove_older()

    def finish(self) -> bool:
        """Waits until the state that is being written is complete.

        Returns:
            Whether there was one.

        Raises:
            UserError: If it could not be written.
        """
        return self._background.finish()

    def __enter__(self) -> "StateFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        except Exception as second:
            if error is None:
                raise
            log.warning("the last state is not complete: %s", second)

    def restore(self) -> Progress:
        """Returns the progress of the newest complete state, which is loaded; without a state that of a new run.

        Unfinished states of killed runs are removed.

        Raises:
            UserError: If a state is damaged, or belongs to another run; nothing is changed then.
        """
        number, num_processes = processes().process_index, processes().num_processes
        if number == 0:
            complete = complete_states(self.folder)
            for state in all_states(self.folder):
                if state not in complete:
                    remove_state(state)
        wait_for_processes()
        # The main process lists them for all: a network file system may show the others older entries.
        complete, *_ = together(lambda: complete_states(self.folder), self._group)
        if not complete:
            return Progress()
        newest = complete[-1]
        together(lambda: check_files(newest, number, num_processes), self._group)
        run = read_json(newest / _RUN_FILE)
        saved, tensors = saved_tensors(newest), model_tensors(self.model)
        is_shorter = _planned_steps(run["identity"]) < _planned_steps(self.identity)
        may_change = ("training.steps",) if is_shorter else ()  # a run may train longer than it first planned
        before, now = run["identity"] | shapes_of(saved), self.identity | shapes_of(tensors)
        different = differences(before, now, may_change)
        if different:
            raise UserError(f"{newest} is the state of another run: {'; '.join(different)}")
        tensors |= make_optimizer_tensors(self.model, self.optimizer, saved)
        load_tensors(newest, tensors, self._group)
        self.schedule.load_state_dict(run["schedule"])
        for group, lr in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        for data_set in self.data_sets:
            data_set.batches.position = run["positions"][data_set.name]
        process_file = newest / _process_file(number)
        if process_file.exists():
            set_random_states(torch.load(process_file, map_location="cpu", weights_only=True)["random"])
        return Progress(**run["progress"])

    def _shared(self) -> bool:
        """Returns whether the number of processes changes no update."""
        return all(data_set.shared for data_set in self.data_sets)

    def _remove_older(self) -> None:
        for older in complete_states(self.folder)[:-1]:
            if self.keep_every == 0 or step_of(older) % self.keep_every != 0:
                remove_state(older)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the checksums of all files of a state that this process has written."""
    number = processes().process_index
    for name, content in files.items():
        write_bytes(folder / name, content)
    of_tensors = (f"__{number}_*", ".metadata") if number == 0 else (f"__{number}_*",)
    return checksums_of(folder, of_tensors + tuple(files))


def _planned_steps(identity: Mapping[str, Any]) -> int:
    return identity.get("training", {}).get("steps", 0)


def _process_file(number: int) -> str:
    return f"process-{number}.pt"


@cache
def _writing_group() -> ProcessGroup:
    """Returns a group of all processes for the threads that write, which must not share a group with the training."""
    return distributed.new_group(backend="gloo", timeout=_TIMEOUT)
