"""Ends a worker process when the process that it works for is killed."""

import os
import threading
import time
from functools import cache

import psutil

#: Seconds between two looks.
_INTERVAL = 1.0


@cache
def end_with(ancestor: int) -> None:
    """Ends this process at once when the process with the id ``ancestor`` has ended; does nothing for other processes.

    A killed process cannot end its workers. They would train on, and keep their folders locked.

    Args:
        ancestor: The id of the parent, of its parent, and so on.
    """
    if not _works_for(ancestor):
        return

    def watch() -> None:
        while _works_for(ancestor):
            time.sleep(_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, name=f"end with {ancestor}", daemon=True).start()


def _works_for(ancestor: int) -> bool:
    """Returns whether the process is among the ancestors. A process whose parent ends gets another parent."""
    return any(parent.pid == ancestor for parent in psutil.Process().parents())
