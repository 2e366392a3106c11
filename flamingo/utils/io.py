"""Files: every write of the project goes through here, and is complete or absent after a kill; only files are read.

A file or folder that is being written has another name, ``NAME.<8 hex digits>.tmp``, and is renamed when it is
complete. :func:`remove_leftovers` removes what a kill has left under such names.
"""

import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flamingo.utils.errors import UserError

#: What the user can mend: no room, no permission, a read-only or broken disk, a file where a folder should be.
USER_ERRNOS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
        *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE),
    }
)
#: The names of what is being written (tmp), and of a folder that is being replaced (old).
_LEFTOVER = re.compile(r"(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp(?=/|$)")
#: How Rust writes a system error: safetensors and tokenizers raise exceptions of their own with this text.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def write(descriptor: int, content: bytes | memoryview) -> int:
    """``os.write``; the one place where Python code of the project writes to a file."""
    return os.write(descriptor, content)


# ------------------------------------------------------------------------------- files


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A stream whose content takes the place of ``path`` when the block ends without an exception.

    A reader finds the old file or the new one, also after a crash of the machine: the content is synced to disk before
    the rename. Of two processes that write the same file, the one that ends last wins. A text is UTF-8.

    Args:
        path: The file. Its folder is made if it is missing.
        mode: ``"w"`` for text, ``"wb"`` for bytes.

    Raises:
        UserError: If the file cannot be written, such as on a full disk, whatever a library that writes to the stream
            makes of the error.
    """
    unfinished = _temporary(path, "tmp")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Unbuffered(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        stream: Any = io.BufferedWriter(raw, 1 << 20)
        stream = stream if "b" in mode else io.TextIOWrapper(stream, "utf-8", newline="\n")
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
    """Writes through :func:`write` and keeps the first error, of which torch and others make one of their own."""

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
        """Write nothing more: the file is not going to be used."""
        self._discards = True

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise the first error of :meth:`write` in the place of what a library made of it, also if that is nothing."""
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
    """Replace the file's content atomically; see :func:`atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file's content atomically; see :func:`atomic_file`."""
    with atomic_file(path, "wb") as stream:
        stream.write(content)


def append(path: Path, content: bytes, sync: bool = True) -> None:
    """Add to the end of a file; if that fails, the file is as it was before.

    A kill can leave a part of ``content``. Only the owner of the file's folder may append.

    Args:
        path: The file. It is made if it is missing.
        content: What is added.
        sync: Whether the content is on the disk, rather than in the page cache, when this returns.

    Raises:
        UserError: If the file cannot be written, such as on a full disk.
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


# ------------------------------------------------------------------------------- folders


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``path`` when the block ends without an exception.

    All files are synced to disk before the rename. A kill between the two renames of a replacement leaves the old
    folder under a name from which :func:`remove_leftovers` brings it back.

    Raises:
        UserError: If a file cannot be written, such as on a full disk.
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
    """Remove what killed writers have left in ``folder``, and bring back a folder that was being replaced.

    The caller owns the folder: nobody else writes into it now.
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


def is_leftover(path: Path) -> bool:
    """Whether the file or folder has the name of something unfinished."""
    return _LEFTOVER.fullmatch(path.name) is not None


def _temporary(path: Path, kind: str) -> Path:
    """Another name for ``path`` in the same folder, which no other process uses."""
    return path.with_name(f"{path.name[:200]}.{secrets.token_hex(4)}.{kind}")


# ------------------------------------------------------------------------------- errors, syncing


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn a system error of the block (no space, no permission) into a UserError that names its file, else ``path``.

    Errors of writers in other languages count, too: see :func:`system_error`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (found := system_error(error)) is None:
            raise
        raise UserError(sentence_of(found, path)) from error


def system_error(error: Exception) -> OSError | None:
    """The system error that an exception is, or was raised for by safetensors or tokenizers; else None."""
    if isinstance(error, OSError):
        return error
    named = _RUST_ERROR.search(str(error))
    return OSError(int(named[1]), os.strerror(int(named[1]))) if named else None


def sentence_of(error: OSError, path: Path | None = None) -> str:
    """What a system error says, with the name of the file that was to be written."""
    name = _TEMPORARY.sub("", str(error.filename or path or "a file"))
    return f"{name}: {error.strerror or error}"


def sync_tree(folder: Path) -> None:
    """Write all files of a folder, and its entries, from the page cache to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync(file: Path) -> None:
    """Write a file's content from the page cache to disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, so that a rename in it survives a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync a folder
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------- reading

#: What a path can name other than a regular file.
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(path: Path) -> Path:
    """Return ``path`` if it names a regular file, or a link to one: opening a named pipe would wait for ever.

    Raises:
        OSError: If there is nothing at ``path``, or something else.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a regular file")
    return path


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        UserError: With ``where``, if it is no JSON, or is nested too deeply for Python's reader.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON: {error}") from error


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises UserError, naming ``where`` it stands, for anything else."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} is no JSON object: {text[:80]!r}")
    return value


def complete_lines(path: Path) -> list[bytes]:
    """The lines of a file that is appended to, without a last one that a kill has cut off; none if it is missing."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return lines
