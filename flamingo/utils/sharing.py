"""Work that the processes of a run share: dealt by cost, with results in order and a failure that ends all of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed

from flamingo.utils.devices import processes
from flamingo.utils.errors import FailedElsewhereError

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Makes the results of some pieces of work, one after the other.
Work = Callable[[Sequence[int]], Iterable[Result]]

#: Seconds between two looks at the other processes.
_SHORTEST_DELAY, _LONGEST_DELAY = 0.0005, 0.05
#: Seconds that a process that has failed gives the others to end their batches.
_GRACE = 60.0
#: The numbers of the calls of :func:`shared`, which are the same in all processes.
_calls = count()


def dealt(costs: Sequence[int], num_processes: int) -> list[list[int]]:
    """Returns the numbers of the pieces of work of each process, in ascending order.

    The most expensive piece comes first, and goes to the process with the least work so far.
    """
    loads = [0] * num_processes
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    for number in sorted(range(len(costs)), key=lambda number: costs[number], reverse=True):
        process = loads.index(min(loads))
        loads[process] += costs[number]
        shares[process].append(number)
    return [sorted(share) for share in shares]


def nothing() -> None:
    """Does nothing."""


def shared(
    work: Work[Result],
    costs: Sequence[int],
    sizes: Sequence[int] | None = None,
    on_progress: Callable[[int], object] | None = None,
    leave: Callable[[], object] = nothing,
) -> list[Result]:
    """Returns the result of each piece of work. All processes call this function, and each does a part of the work.

    Args:
        work: Yields the results of the pieces with these numbers, in their order.
        costs: The cost of each piece, in any unit, equal in all processes.
        sizes: The size of each piece, in units of progress; None: 1.
        on_progress: Called with the progress of all processes since the last call, as far as this process can tell by
            its own part.
        leave: Called when this process has done its part, or has failed and told the others.

    Raises:
        Exception: What the work has raised in this process.
        FailedElsewhereError: If it has raised something in another process.
    """
    state = processes()
    own = dealt(costs, state.num_processes)[state.process_index]
    advance = _Progress([1] * len(costs) if sizes is None else sizes, own, on_progress)
    if state.num_processes == 1:
        return list(_advancing(work, own, advance))
    call = _Call()
    results: dict[int, Result] = {}
    try:
        for number, result in zip(own, _advancing(work, own, advance), strict=True):
            results[number] = result
            call.check()
    except Exception:
        call.fail(leave)
        raise
    leave()
    call.wait()
    by_number: dict[int, Result] = {}
    for of_process in gather_object([results]):
        by_number |= of_process
    advance.finish()
    return [by_number[number] for number in range(len(costs))]


def shared_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Returns the result of a function for each item. All processes call this function, and each does some items.

    The arguments and errors are those of :func:`shared`.
    """
    return shared(lambda numbers: (function(items[number]) for number in numbers), [1] * len(items))


def batched(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Returns the items in batches of a size, of which the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_rounds(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[list[tuple[Item, Result]]]:
    """Yields some items at a time, in their order, with the results of a function: each process does one of them.

    All processes call this function. The errors are those of :func:`shared`.
    """
    size = processes().num_processes
    for start in range(0, len(items), size):
        of_round = items[start : start + size]
        yield list(zip(of_round, shared_each(function, of_round), strict=True))


def on_main_process(work: Callable[[], Result]) -> Result:
    """Returns the result of some work that the main process does. All processes call this function.

    Raises:
        Exception: In the main process what the work has raised.
        FailedElsewhereError: In the other processes if it has raised something.
    """
    outcome: list[tuple[bool, Result | None]] = [(False, None)]
    if processes().is_main_process:
        try:
            outcome = [(True, work())]
        except Exception:
            broadcast_object_list(outcome)
            raise
    [(done, result)] = broadcast_object_list(outcome)
    if not done:
        raise FailedElsewhereError(0)
    return result


@contextmanager
def main_process_first() -> Iterator[None]:
    """Runs the block in the main process first, and then in the other processes of this run.

    Raises:
        FailedElsewhereError: In the other processes if the block has raised something in the main process.
    """
    if not processes().is_main_process:
        on_main_process(lambda: None)
        yield
        return
    try:
        yield
    except Exception:
        broadcast_object_list([(False, None)])
        raise
    broadcast_object_list([(True, None)])


def _advancing(work: Work[Result], own: Sequence[int], advance: "_Progress") -> Iterator[Result]:
    for number, result in zip(own, work(own), strict=True):
        advance(number)
        yield result


class _Progress:
    """Reports the progress of all processes by that of this one."""

    def __init__(self, sizes: Sequence[int], own: Sequence[int], on_progress: Callable[[int], object] | None) -> None:
        self._sizes, self._on_progress = sizes, on_progress
        self._total = sum(sizes)
        self._own_total = sum(sizes[number] for number in own)
        self._own_done = 0
        self._reported = 0

    def __call__(self, number: int) -> None:
        """Counts a piece of this process as done."""
        self._own_done += self._sizes[number]
        done = 0
        if self._own_total > 0:
            done = self._total * self._own_done // self._own_total
        self._report(done)

    def finish(self) -> None:
        """Counts all pieces as done."""
        if self._reported < self._total:
            self._report(self._total)

    def _report(self, done: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done - self._reported)
        self._reported = done


class _Call:
    """A call of :func:`shared`: the failure of a process, and the number of processes that have done their parts.

    Both are in the store by which the processes have met. A look at it is no collective call, for which all would wait,
    and has no time limit.
    """

    def __init__(self) -> None:
        key = f"flamingo/shared/{next(_calls)}"
        self._failure = f"{key}/failure"
        self._ended = [f"{key}/ended/{process}" for process in range(processes().num_processes)]
        self._store = distributed.distributed_c10d._get_default_store()
        self._has_failed = False

    def check(self) -> None:
        """Looks for a failure of another process.

        Raises:
            FailedElsewhereError: If there is one.
        """
        if self._store.check([self._failure]):
            self._has_failed = True
            raise FailedElsewhereError(int(self._store.get(self._failure)))

    def wait(self) -> None:
        """Waits until all processes have done their parts.

        Raises:
            FailedElsewhereError: If one fails.
        """
        for _ in self._until_all_ended():
            self.check()
        self.check()  # the last one may have failed

    def fail(self, leave: Callable[[], object]) -> None:
        """Tells the other processes that this one has failed, and gives them some time to end: it may own the store."""
        if not self._has_failed:
            self._store.set(self._failure, str(processes().process_index))
        leave()
        end = time.monotonic() + _GRACE
        for _ in self._until_all_ended():
            if time.monotonic() > end:
                break

    def _until_all_ended(self) -> Iterator[None]:
        """Yields from time to time until all processes have called this function."""
        self._store.set(self._ended[processes().process_index], "")
        delay = _SHORTEST_DELAY
        while not self._store.check(self._ended):
            yield
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
