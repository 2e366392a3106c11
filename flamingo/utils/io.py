"""Files: every write of the project goes through here, and is complete or absent; only regular files are read."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flamingo.utils.errors import UserError

#: Suffix of what is being written; a kill can leave such files and folders, and nothing reads them.
UNFINISHED = ".tmp"


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


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A stream whose content takes the place of ``path`` when the block ends without an exception.

    A reader finds the old file or the new one, also after a crash of the machine: the content is synced to disk before
    the rename. A text is UTF-8.

    Args:
        path: The file. Its folder is made if it is missing.
        mode: ``"w"`` for text, ``"wb"`` for bytes.

    Raises:
        UserError: If the file cannot be written, such as on a full disk.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content atomically; see :func:`atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file's content atomically; see :func:`atomic_file`."""
    with atomic_file(path, "wb") as stream:
        stream.write(content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``path`` when the block ends without an exception.

    Raises:
        UserError: If a file cannot be written, such as on a full disk.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with file_errors(path):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            for file in unfinished.rglob("*"):
                if file.is_file():
                    sync(file)
            shutil.rmtree(path, ignore_errors=True)
            unfinished.rename(path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        sync_folder(path.parent)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block (no space, no permission) into a UserError that names its file, else ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}") from error


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
