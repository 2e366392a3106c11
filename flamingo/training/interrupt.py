"""Signals that wait for the current step, on which all processes stop together: Ctrl-C, SIGTERM, and a requeue."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flamingo.training.host_sums import host_sums
from flamingo.utils.torchrun import started_by_torchrun

#: Ctrl-C, and SIGTERM, by which a cluster ends a job.
_STOPS = (signal.SIGINT, signal.SIGTERM)
#: A cluster sends one of them some time before it ends a job, which then goes back into the queue.
_REQUEUES = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Interrupt:
    """The signals that have arrived in this process."""

    def __init__(self) -> None:
        self.arrived: set[int] = set()

    def agreed(self) -> int | None:
        """Returns the signal that has reached any of the processes; None: no signal. A requeue comes first.

        All processes call this method after the same step, so that all of them stop there.
        """
        arrived = {str(number): float(number in self.arrived) for number in _REQUEUES + _STOPS}
        sums = host_sums(arrived)
        return next((int(number) for number, processes in sums.items() if processes > 0), None)


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Yields the record of the signals that arrive. They do not end the block.

    A second Ctrl-C or SIGTERM acts as usual, and so does a second signal for a requeue. In a process that torchrun has
    started they do nothing: torchrun sends a signal of the cluster once more to its processes, which may have it
    already, and kills them itself if they do not end in time.
    """
    interrupt = Interrupt()
    with _deferred(_STOPS, interrupt), _deferred(_REQUEUES, interrupt):
        yield interrupt


@contextmanager
def _deferred(numbers: Sequence[int], interrupt: Interrupt) -> Iterator[None]:
    """Records the first of these signals, instead of what it usually does."""
    # Only the main thread may change handlers. A signal that is ignored (nohup) stays ignored.
    main_thread = threading.current_thread() is threading.main_thread()
    usual = {number: signal.getsignal(number) for number in numbers if main_thread}
    deferred = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}

    def defer(number: int, _: Any) -> None:
        interrupt.arrived.add(number)
        if not started_by_torchrun():
            restore()

    def restore() -> None:
        for number, handler in deferred.items():
            signal.signal(number, handler)

    for number in deferred:
        signal.signal(number, defer)
    try:
        yield
    finally:
        restore()
