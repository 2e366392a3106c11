"""Work in a thread, one piece at a time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class Background:
    """Does one piece of work at a time in a thread.

    The end of the program does not wait for the thread: a second Ctrl-C ends it at once.
    """

    def __init__(self) -> None:
        self._future: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Starts the work. The earlier work must be finished: see :meth:`finish`."""
        assert self._future is None, "the earlier work is not finished"
        future: Future[None] = Future()
        self._future = future

        def run() -> None:
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=run, daemon=True, name="background").start()

    def finish(self) -> bool:
        """Waits for the work, and raises its error.

        Returns:
            Whether there was any work.
        """
        future, self._future = self._future, None
        if future is None:
            return False
        future.result()
        return True
