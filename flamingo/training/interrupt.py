"""Ctrl-C that waits for the current step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a step is finished before it counts; a second one is as usual."""
    interrupted = threading.Event()
    usual = signal.getsignal(signal.SIGINT)

    def interrupt(*_: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, usual)

    # Only the main thread may change handlers; and where Ctrl-C is ignored (nohup), it stays so.
    if not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, usual)
