"""Writes files. Every write of the project goes through this module: after a kill a file is complete or absent.

A file or folder is written under the name ``NAME.<8 hex digits>.tmp``, and renamed when it is complete.
:func:`remove_leftovers` removes files that a kill has left under such names.
"""

import errno
import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flamingo.utils.errors import UserError

#: Errors that a user can fix: no space, no permission, a read-only or broken disk, a file instead of a folder.
USER_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ESTALE,
    }
)
#: The names of files and folders that are being written (tmp), and of a folder that is being replaced (old).
_LEFTOVER = re.compile(r"(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp(?=/|$)")
#: The text of a system error in exceptions of safetensors and tokenizers, which are written in Rust.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def write(descriptor: int, content: bytes | memoryview) -> int:
    """Calls ``os.write``. All Python code of the project writes to files through this function.

    Returns:
        The number of bytes that were written.
    """
    return os.write(descriptor, content)


# ------------------------------------------------------------------------------- files


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Yields a stream whose content replaces ``path`` when the block ends without an exception.

    A reader finds the old file or the new one, also after a crash of the machine: the content is synced to disk before
    the rename. If two processes write the same file, the later one wins. Text is UTF-8.

    Args:
        path: The file. A missing folder is created.
        mode: ``"w"`` for text, ``"wb"`` for bytes.

    Raises:
        UserError: If the file cannot be written, for example on a full disk. A library that writes to the stream may
            raise an exception of its own instead.
    """
    unfinished = _temporary(path, "tmp")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Unbuffered(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        stream: Any = io.BufferedWriter(raw, 1 << 20)
        if "b" not in mode:
            stream = io.TextIOWrapper(stream, "utf-8", newline="\n")
        try:
            with raw.errors():
                yield stream
                stream.flush()
            os.fsync(raw.descriptor)
            stream.close()
            unfinished.replace(path)
        except BaseException:
            raw.discard()
            stream.close()
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


class _Unbuffered(io.RawIOBase):
    """Writes through :func:`write`, and keeps the first error: torch and other libraries replace it by their own."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None
        self._discards = False

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if self._discards or self.error is not None:
            return len(content)
        try:
            return write(self.descriptor, content)
        except OSError as error:
            self.error = error
            raise

    def discard(self) -> None:
        """Ignores further writes: the file will not be used."""
        self._discards = True

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raises the first error of :meth:`write`, in place of a library's exception or where a library raised none."""
        try:
            yield
        except Exception as error:
            if self.error is not None:
                raise self.error from error
            raise
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.descriptor)


def write_text(path: Path, text: str) -> None:
    """Replaces the file's content atomically; see :func:`atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file's content atomically; see :func:`atomic_file`."""
    with atomic_file(path, "wb") as stream:
        stream.write(content)


def append(path: Path, content: bytes, sync: bool = True) -> None:
    """Appends to a file. If that fails, the file stays as it was.

    A kill can leave a part of ``content``. Only the owner of the file's folder may append.

    Args:
        path: The file. It is created if it is missing.
        content: The bytes to append.
        sync: Whether to wait until the content is on disk; otherwise it is in the page cache.

    Raises:
        UserError: If the file cannot be written, for example on a full disk.
    """
    with file_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        size = os.fstat(descriptor).st_size
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[write(descriptor, rest) :]
            if sync:
                os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)


def check_writable(key: str, path: Path) -> None:
    """Checks that a file can be written at ``path``. Its folders may be missing.

    Raises:
        UserError: If nothing can be written there; the error begins with the key.
    """
    folder = path.absolute()
    while not folder.is_dir():
        if folder.exists() and folder != path.absolute():
            raise UserError(f"{key}={path} cannot be written: {folder} is a file, not a folder")
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{key}={path} cannot be written: {folder}: {error.strerror}") from error


# ------------------------------------------------------------------------------- folders


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder, which replaces ``path`` when the block ends without an exception.

    All files are synced to disk before the rename. A kill between the two renames of a replacement leaves the old
    folder under a name from which :func:`remove_leftovers` brings it back.

    Raises:
        UserError: If a file cannot be written, for example on a full disk.
    """
    unfinished, old = _temporary(path, "tmp"), _temporary(path, "old")
    with file_errors(path):
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            sync_tree(unfinished)
            if path.exists():
                path.rename(old)
            unfinished.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes files that killed writers have left in ``folder``, and restores a folder that was being replaced.

    The caller owns the folder: no other process writes into it.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        leftover = _LEFTOVER.fullmatch(path.name)
        if leftover is None:
            continue
        replaced = folder / leftover["name"]
        if leftover["kind"] == "old" and not replaced.exists():
            path.rename(replaced)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_leftover(name: str) -> bool:
    """Returns whether the name is temporary: a writer uses it for an unfinished or replaced file or folder."""
    return _LEFTOVER.fullmatch(name) is not None


def _temporary(path: Path, kind: str) -> Path:
    """Returns another name for ``path`` in the same folder, which no other process uses."""
    return path.with_name(f"{path.name[:200]}.{secrets.token_hex(4)}.{kind}")


# ------------------------------------------------------------------------------- errors, syncing


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turns a system error of the block into a UserError that names its file, or ``path``.

    Examples are a full disk and a missing permission. Errors of libraries in other languages are included: see
    :func:`system_error`.

    Raises:
        UserError: For a system error. Other exceptions pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = system_error(error)
        if cause is None:
            raise
        raise UserError(sentence_of(cause, path)) from error


def system_error(error: Exception) -> OSError | None:
    """Returns the system error behind an exception, also of safetensors and tokenizers; None if there is none."""
    if isinstance(error, OSError):
        return error
    match = _RUST_ERROR.search(str(error))
    if match is None:
        return None
    number = int(match[1])
    return OSError(number, os.strerror(number))


def sentence_of(error: OSError, path: Path | None = None) -> str:
    """Returns the message of a system error, with the name of its file."""
    name = _TEMPORARY.sub("", str(error.filename or path or "a file"))
    return f"{name}: {error.strerror or error}"


def sync_tree(folder: Path) -> None:
    """Syncs all files and entries of a folder from the page cache to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync(file: Path) -> None:
    """Syncs a file's content from the page cache to disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Syncs a folder's entries to disk, so that a rename in it survives a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync a folder
    finally:
        os.close(descriptor)
