"""Finds the files that a data set names, for both Unicode encodings of accents in names."""

import os
import unicodedata
from functools import cache
from pathlib import Path


class Listings:
    """Looks up regular files in folders. Each folder is listed once.

    A name that does not exist as it is written is looked up by its canonical composition (Unicode's NFC). macOS writes
    "é" as two characters where other systems write one, and a data set may be packed on one and read on another.
    """

    def __init__(self) -> None:
        self._entries = cache(_entries)
        self._folder = cache(self._found_folder)

    def find(self, folder: Path, name: str) -> Path | None:
        """Returns the path of the regular file ``name`` in or below ``folder``; None if there is none."""
        path = folder / name
        parent = self._folder(path.parent)
        entry = None if parent is None else self._entry(parent, path.name)
        if parent is None or entry is None or not entry.is_file():
            return None
        return parent / entry.name

    def _entry(self, folder: Path, name: str) -> os.DirEntry[str] | None:
        entries = self._entries(folder)
        return entries.get(name) or entries.get(_composed(name))

    def _found_folder(self, folder: Path) -> Path | None:
        if _is_folder(folder):
            return folder
        above = None if folder == folder.parent else self._folder(folder.parent)
        entry = None if above is None else self._entry(above, folder.name)
        return None if above is None or entry is None or not entry.is_dir() else above / entry.name


def _entries(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Returns the folder's entries by their names and by the composed forms of their names."""
    entries = list(os.scandir(folder))
    by_form = {_composed(entry.name): entry for entry in entries}
    by_name = {entry.name: entry for entry in entries}
    return by_form | by_name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name longer than the file system allows
        return False
