"""Hugging Face's image folder: metadata.jsonl or metadata.csv in the folder of the images."""

from dataclasses import replace
from pathlib import Path

from flamingo.data.readers import READERS, Location
from flamingo.data.readers.entries import Entry, captions_in, check_entries, field_of
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import rows


def image_folder(location: Location) -> LazySequence:
    """Returns the images of ``metadata.jsonl`` or ``metadata.csv``, whose rows have ``file_name`` and ``text``.

    The file lies in the folder, or in each of its sub-folders, whose names are then the splits. A field ``split``
    takes precedence. A row may have ``caption``, or a list ``captions``, instead of ``text``. Other fields are ignored.
    The ids are the file names, relative to the folder.

    Raises:
        UserError: For missing or malformed files, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    folder = location.files[0]
    entries = _entries(folder)
    if location.captions_only:
        return check_entries(location, entries)
    return check_entries(replace(location, images=folder), entries)


def _entries(folder: Path) -> list[Entry]:
    files: list[Path] = []
    for pattern in READERS["image_folder"].files:
        files += folder.glob(pattern)
    files.sort()
    if not files:
        raise UserError(f"neither {folder} nor a folder in it has metadata.jsonl or metadata.csv")
    holders = [file.parent for file in files]
    if len(set(holders)) < len(files) or (folder in holders and len(files) > 1):
        raise UserError(f"{folder} has several metadata files for the same images: {', '.join(map(str, files))}")
    entries: list[Entry] = []
    for file in files:
        entries += _entries_of_file(file, None if file.parent == folder else file.parent.name)
    return entries


def _entries_of_file(file: Path, sub_folder: str | None) -> list[Entry]:
    entries = []
    for origin, row in rows(file):
        name = field_of(row, "file_name", str, origin)
        if sub_folder is not None:
            name = f"{sub_folder}/{name}"
        captions = captions_in(row, ("text", "caption", "captions"), origin)
        split = row.get("split")
        if split in (None, ""):
            split = sub_folder
        entries.append(Entry(origin, name, name, captions, split))
    return entries
