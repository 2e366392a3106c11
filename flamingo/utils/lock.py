"""Locks folders: at most one process writes into a folder at a time."""

import errno
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flamingo.utils.errors import UserError
from flamingo.utils.io import file_errors

try:
    import fcntl
except ImportError:  # Windows: heartbeats
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

#: The file in an owned folder that names the owner, with and without ``flock``. It stays after a kill.
LOCK, HEARTBEAT = ".lock", ".heartbeat"
#: Without ``flock``: seconds between two heartbeats, and seconds without one after which an owner counts as dead.
BEAT, STALE = 10.0, 120.0
#: Without ``flock``: seconds after which the last one of several processes that replace a dead owner is known.
_SETTLE = 1.0
#: Seconds between two attempts of a process that waits.
_POLL = 0.5
#: Errors of ``flock`` on file systems without locks.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)

#: The locks of this process, by folder. A forked child drops them.
_held: dict[Path, "_Flock | _Heartbeat"] = {}


@contextmanager
def owner(folder: Path, wait: bool = False) -> Iterator[None]:
    """Owns ``folder`` inside the block. A missing folder is created, and removed if it stays empty.

    The lock is ``flock``, which the kernel frees when the process dies; the next process may run on any host. On a file
    system without ``flock`` the lock is a file that a thread touches every 10 seconds. After 2 minutes without a touch
    its process counts as dead. A process may own a folder several times. Forked children own nothing.

    Args:
        folder: The folder.
        wait: Whether to wait until another owner ends.

    Raises:
        UserError: If another process owns the folder and ``wait`` is false, with the process and its host; and if the
            lock file cannot be created.
    """
    key = folder.resolve()
    if key in _held:
        yield
        return
    is_new = not folder.exists()
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(key)
        if lock is None and not wait:
            raise UserError(f"{folder} is in use by {_owner_of(key)}: wait until it ends, or use another folder")
        if lock is None:
            log.warning("waiting for %s, which writes into %s", _owner_of(key), folder)
        while lock is None:
            time.sleep(_POLL)
            lock = _acquired(key)
    _held[key] = lock
    try:
        yield
    finally:
        # A forked child that gets here has dropped the lock, and must not free its parent's.
        if _held.pop(key, None) is not None:
            lock.release()
            if is_new:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def _acquired(folder: Path) -> "_Flock | _Heartbeat | None":
    """Returns the lock, or None while another process holds it.

    Raises:
        OSError: If the lock file cannot be created.
    """
    if fcntl is not None:
        try:
            return _flock(folder / LOCK)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            (folder / LOCK).unlink(missing_ok=True)
    return _heartbeat(folder / HEARTBEAT)


def _claim() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": secrets.token_hex(8)}).encode()


def _owner_of(folder: Path) -> str:
    for name in (LOCK, HEARTBEAT):
        try:
            claim = json.loads((folder / name).read_bytes())
            return f"process {claim['pid']} on {claim['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the file does not exist, or its owner is writing it
    return "another process"


# ------------------------------------------------------------------------------- flock


class _Flock:
    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def release(self) -> None:
        # Remove the file before it is unlocked: a process that has opened it sees that it is not the folder's any more.
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)

    def forget(self) -> None:
        """Closes the copy of the descriptor in a forked child, so that the lock ends with the parent."""
        os.close(self.descriptor)


def _flock(path: Path) -> _Flock | None:
    """Returns the lock, or None while another process holds it.

    Raises:
        OSError: If the file system has no locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                _write_claim(descriptor)
                return _Flock(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed the file between the two calls


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_claim(descriptor: int) -> None:
    """Writes the owner into the lock file. On a full disk the lock holds without a name."""
    with suppress(OSError):
        os.write(descriptor, _claim())


# ------------------------------------------------------------------------------- heartbeat


class _Heartbeat:
    def __init__(self, path: Path, claim: bytes) -> None:
        self.path, self.claim = path, claim
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if self.path.read_bytes() != self.claim:
                    # This process was suspended for so long that another one replaced it: it must not write again.
                    print(f"error: {self.path.parent} is now owned by {_owner_of(self.path.parent)}", file=sys.stderr)
                    sys.stderr.flush()
                    os._exit(2)
                os.utime(self.path)
            except OSError as error:
                log.warning("%s: %s", self.path, error)

    def release(self) -> None:
        self._ended.set()
        if self.path.exists() and self.path.read_bytes() == self.claim:
            self.path.unlink()

    def forget(self) -> None:
        """Does nothing in a forked child: the thread that touches the file runs in the parent only."""


def _heartbeat(path: Path) -> _Heartbeat | None:
    claim = _claim()
    try:
        with path.open("xb") as stream:
            stream.write(claim)
    except FileExistsError:
        if not _takes_over(path, claim):
            return None
    return _Heartbeat(path, claim)


def _takes_over(path: Path, claim: bytes) -> bool:
    """Returns whether this process has replaced a dead owner."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_bytes(claim)
    try:
        # Compare two times of the file system: the clocks of hosts differ.
        if temporary.stat().st_mtime - path.stat().st_mtime < STALE:
            return False
        temporary.replace(path)
        time.sleep(_SETTLE)
        return path.read_bytes() == claim
    except FileNotFoundError:  # the owner has ended in the meantime
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _drop_in_child() -> None:
    for lock in _held.values():
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)
