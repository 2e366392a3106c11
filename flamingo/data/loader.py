"""Positions of an endless data set -> batches, made by any number of worker processes, with a position to resume."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from flamingo.data.order import Endless
from flamingo.utils.devices import pins_memory, processes
from flamingo.utils.errors import UserError

#: A forked worker ends when its parent, the training process, is killed. A worker of a fork server, the default of
#: Python 3.14, has another parent and would stay alive.
_START_METHOD = "fork" if sys.platform == "linux" else None


class Loader:
    """Batches of an endless data set, starting at ``position``.

    ``position`` counts the samples that all processes have been given. It is the loader's whole state: to resume,
    set it. A batch depends on the position, and not on ``num_workers``.
    """

    def __init__(
        self,
        items: Endless[Any],
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """Makes the loader of one process.

        Args:
            items: The data set. An item must not draw from global random states, which differ between workers.
            collate: Makes a batch of a list of items. It runs in a worker, as ``items`` do.
            batch_size: Samples of this process in a batch. All processes together have ``num_ranks`` times as many.
            num_workers: Processes that make batches ahead of time; 0: each batch is made when it is asked for.
            rank: The number of this process.
            num_ranks: The number of processes that train together.
            pin_memory: Whether batches lie in pinned memory, from which copies to a GPU do not block the host.

        Raises:
            UserError: If ``batch_size`` or ``num_workers`` is out of range.
            ValueError: If ``rank`` is out of range.
        """
        for key, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise UserError(f"{key} must be at least {least}, got {value}")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} must lie in [0, num_ranks={num_ranks})")
        self.batches = _Batches(items, collate)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.rank, self.num_ranks = rank, num_ranks
        self.pin_memory = pin_memory
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        """Yields batches without end, starting at ``position``, which it advances.

        Raises:
            UserError: If making a batch raises it, in this process or in a worker.
        """
        # A DataLoader draws a seed for its workers: a generator of its own leaves the global one unchanged.
        generator = torch.Generator().manual_seed(0)
        loader: DataLoader[Any] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=self._positions(),
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            generator=generator,
            pin_memory=self.pin_memory,
            multiprocessing_context=_START_METHOD if self.num_workers > 0 else None,
            worker_init_fn=_ignore_signals,
        )
        # Libraries start threads in a forked worker before worker_init_fn. They inherit what is blocked now.
        with _sigterm_blocked():
            made = iter(loader)
        for batch in made:
            if isinstance(batch, UserError):
                raise batch
            # Advance before the batch is yielded: a state that is saved after its step resumes with the next batch.
            self.position += self.batch_size * self.num_ranks
            yield batch

    def _positions(self) -> Iterator[range]:
        """Yields the ``batch_size`` consecutive positions of this process in each batch of all processes."""
        first = self.position + self.rank * self.batch_size
        for start in count(first, self.batch_size * self.num_ranks):
            yield range(start, start + self.batch_size)


def process_loader(
    items: Endless[Any], collate: Callable[[list[Any]], Any], batch_size: int, num_workers: int = 0
) -> Loader:
    """Returns the :class:`Loader` of this process. The processes of the training share the items."""
    state = processes()
    return Loader(
        items,
        collate,
        batch_size,
        num_workers,
        rank=state.process_index,
        num_ranks=state.num_processes,
        pin_memory=pins_memory(state.device),
    )


class _Batches(Dataset[Any]):
    """Whole batches by their positions. A UserError is returned: if a worker raised it, only its trace would arrive."""

    def __init__(self, items: Endless[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.items, self.collate = items, collate

    def __getitem__(self, positions: range) -> Any:
        try:
            return self.collate([self.items[position] for position in positions])
        except UserError as error:
            return error


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Within it SIGTERM waits in this thread, and in all threads of processes that are forked."""
    if not hasattr(signal, "pthread_sigmask"):  # missing on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_signals(_: int) -> None:
    """Lets a worker make batches after Ctrl-C and after the signals of a cluster.

    A terminal and a cluster send them to all processes of a job at once. The training process then finishes its step
    and ends its workers itself, which may take it a SIGTERM. A forked worker would also inherit the handlers of the
    training process, such as that by which submitit requeues the job.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # missing on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_sigterm_of, args=(os.getppid(),), daemon=True).start()


def _end_by_sigterm_of(sender: int) -> None:
    """Ends this process when the process ``sender`` sends it SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)


def _unchanged(batch: Any) -> Any:
    return batch
