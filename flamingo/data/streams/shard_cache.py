"""A bounded cache of files on the local disk, which several processes share."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flamingo.utils.io import file_errors, is_leftover

log = logging.getLogger(__name__)

#: Files that are downloaded at once have different locks, but for a chance of one in 256.
_LOCKS = 256
#: The seconds after which an unfinished file counts as left by a process that was killed.
_LEFTOVER_AGE = 24 * 3600


@dataclass(frozen=True)
class ShardCache:
    """Copies of shards below a folder. Those that were used least recently make room for others.

    A copy in use is locked (``flock``), and stays. Next to a copy there may be a file of its index, ``NAME.index``,
    which goes with it.
    """

    folder: Path
    #: The bytes that all files may have. Copies in use, and those that are being made, may exceed them.
    limit: int

    @contextmanager
    def opened(self, file: Path, make: Callable[[], None]) -> Iterator[None]:
        """Keeps a file in the cache while the block runs. It is made if it is missing, by one process alone.

        Args:
            file: The file, below the folder of the cache.
            make: Makes the file; it must appear complete.

        Raises:
            UserError: If the file cannot be locked, and whatever ``make`` raises.
        """
        descriptor = self._locked_copy(file)
        if descriptor is None:
            descriptor = self._made_copy(file, make)
            self._evict()
        try:
            yield
        finally:
            os.close(descriptor)

    def _made_copy(self, file: Path, make: Callable[[], None]) -> int:
        """Returns the descriptor of a locked copy, which this process or another has just made."""
        lock = self.folder / "locks" / str(_lock_number(file.name))
        while True:
            with _lock(lock):
                descriptor = self._locked_copy(file)
                if descriptor is not None:
                    return descriptor
                make()
                descriptor = self._locked_copy(file)
                if descriptor is not None:  # else another process has evicted it already
                    return descriptor

    def _locked_copy(self, file: Path) -> int | None:
        """Returns the descriptor of a copy, which is then locked against eviction; None if there is none."""
        with file_errors(file):
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            status = os.fstat(descriptor)
            if status.st_nlink == 0:  # it was evicted between the two calls
                os.close(descriptor)
                return None
            # The time of access is that of the last use. The time of change stays: the index depends on it.
            os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
        return descriptor

    def _evict(self) -> None:
        """Removes the copies that were used least recently until the limit holds."""
        with _lock(self.folder / "locks" / "eviction"):
            sizes, total = self._copies()
            for file, size in sizes:
                if total <= self.limit:
                    return
                if _removed(file):
                    total -= size
            if total > self.limit:
                log.warning("%s: %d bytes are in use, above its limit of %d", self.folder, total, self.limit)

    def _copies(self) -> tuple[list[tuple[Path, int]], int]:
        """Returns each copy with its bytes, the least recently used first, and the bytes of all files."""
        used: list[tuple[int, Path, int]] = []
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                file = Path(folder) / name
                try:
                    status = file.stat()
                except FileNotFoundError:
                    continue
                if is_leftover(name) and time.time() - status.st_mtime > _LEFTOVER_AGE:
                    file.unlink(missing_ok=True)
                    continue
                total += status.st_size
                if file.parent.name != "locks" and not is_leftover(name) and file.suffix not in (".index", ".json"):
                    used.append((status.st_atime_ns, file, status.st_size))
        return [(file, size) for _, file, size in sorted(used)], total


def _lock_number(name: str) -> int:
    """Returns the number of the lock of a file."""
    return sum(name.encode()) % _LOCKS


def _removed(file: Path) -> bool:
    """Returns whether a copy is gone. It is removed with its index, unless it is in use."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.with_name(f"{file.name}.index").unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Holds a lock that other processes wait for."""
    with file_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)
