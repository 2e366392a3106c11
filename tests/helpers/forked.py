"""Runs a function in several forked processes, which share a gloo process group."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import distributed

from tests.helpers import devices

#: Forked processes have imported everything, and their arguments need no pickling.
_FORK = multiprocessing.get_context("fork")
#: A collective that takes longer fails.
_COLLECTIVE = timedelta(seconds=60)


@dataclass
class Ended:
    """How a process ended: what its function returned, or the trace of its exception, or neither if it was killed."""

    value: Any = None
    error: str | None = None
    exitcode: int | None = None


def values_of_processes(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 120.0) -> list[Any]:
    """Returns what the function returns in each process; fails with the first trace if it does not in one.

    For the arguments see :func:`run_processes`.
    """
    ended = run_processes(size, function, *arguments, seconds=seconds)
    failed = [f"rank {rank}: {one.error or one.exitcode}" for rank, one in enumerate(ended) if one.exitcode != 0]
    assert not failed, "\n".join(failed)
    return [one.value for one in ended]


def run_processes(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 120.0) -> list[Ended]:
    """Runs the function in forked processes until all have ended, and returns how, by rank.

    Args:
        size: The number of processes. Each has the variables that torchrun sets, and one thread.
        function: It may be local, and may use whatever this process has. It returns tensors, or what can be pickled.
        *arguments: Its arguments.
        seconds: After them, processes that still run are killed.
    """
    devices.skip_unless_forked_processes_compute()
    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        receivers: list[Connection] = []
        processes = []
        for rank in range(size):
            receiver, sender = _FORK.Pipe(duplex=False)
            process = _FORK.Process(target=_run_rank, args=(rank, size, store, sender, function, arguments))
            process.start()
            sender.close()  # the receiver then finds the end when the process ends
            receivers.append(receiver)
            processes.append(process)
        try:
            return _results(receivers, processes, time.monotonic() + seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _results(receivers: list[Connection], processes: list[Any], deadline: float) -> list[Ended]:
    ended = [Ended() for _ in receivers]
    ranks = {id(receiver): rank for rank, receiver in enumerate(receivers)}
    waiting: list[Any] = list(receivers)
    while waiting and time.monotonic() < deadline:
        for receiver in wait(waiting, timeout=max(0.0, deadline - time.monotonic())):
            rank = ranks[id(receiver)]
            try:
                saved = BytesIO(receivers[rank].recv_bytes())
                ended[rank].value, ended[rank].error = torch.load(saved, weights_only=False)
            except EOFError:  # the process has ended, or was killed
                waiting.remove(receiver)
    for one, process in zip(ended, processes, strict=True):
        process.join(max(0.1, deadline - time.monotonic()))
        one.exitcode = process.exitcode
        if process.exitcode is None:
            one.error = "still running at the end of its time"
    return ended


def _run_rank(
    rank: int,
    size: int,
    store: Path,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Runs the function in this process, sends its result, and ends the process."""
    code = 1
    try:
        _join_group(rank, size, store)
        value = function(*arguments)
        distributed.barrier()  # nobody closes its connections while others need them
        _send(sender, value, None)
        distributed.destroy_process_group()
        code = 0
    except BaseException:
        _send(sender, None, traceback.format_exc())
    finally:
        sender.close()
        os._exit(code)  # nothing of the parent's clean-up belongs here


def _join_group(rank: int, size: int, store: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # accelerate asks for them, and nothing uses them
    # What the parent process knows of its own processes does not hold here.
    AcceleratorState._reset_state(reset_partial_state=True)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=_COLLECTIVE
    )


def _send(sender: Connection, value: Any, error: str | None) -> None:
    """Sends the values of tensors: pickled alone, they would be files that both processes keep open."""
    saved = BytesIO()
    torch.save((value, error), saved)
    sender.send_bytes(saved.getvalue())
