"""The peak of a process's anonymous memory (RssAnon), which files that are mapped into memory are no part of."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

#: Seconds between two samples.
_INTERVAL = 0.002


class AnonymousMemory:
    """Measures the memory above that of the start, by a thread that reads Linux's /proc/self/status."""

    def __init__(self) -> None:
        self._start = _anonymous_bytes()
        #: The largest number of bytes in the last block of :meth:`measured`.
        self.peak = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measures the block."""
        self.peak = 0
        ended = Event()
        sampler = Thread(target=self._sample, args=(ended,), daemon=True)
        sampler.start()
        try:
            yield
        finally:
            ended.set()
            sampler.join()

    def _sample(self, ended: Event) -> None:
        while True:
            self.peak = max(self.peak, _anonymous_bytes() - self._start)
            if ended.wait(_INTERVAL):
                return


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    [kilobytes] = re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024
