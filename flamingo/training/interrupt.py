"""Ctrl-C and SIGTERM that wait for the current step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """The signal that has arrived; None: no signal."""

    signal: int | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Yields the record of Ctrl-C or SIGTERM, which does not end the block. A second signal acts as usual."""
    interrupt = Interrupt()
    # Only the main thread may change handlers. A signal that is ignored (nohup) stays ignored.
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main_thread else ()
    usual = {number: signal.getsignal(number) for number in numbers}
    deferred = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}

    def defer(number: int, _: Any) -> None:
        interrupt.signal = number
        restore()

    def restore() -> None:
        for number, handler in deferred.items():
            signal.signal(number, handler)

    for number in deferred:
        signal.signal(number, defer)
    try:
        yield interrupt
    finally:
        restore()
