"""A folder for each class, with the images of the class: tench/a.jpg."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.entries import Entry, check_entries
from flamingo.data.readers.text_files import IMAGES
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError


def class_folders(location: Location) -> LazySequence:
    """Returns the images ``CLASS/NAME.jpg`` (or ``png``, ``webp``, ...), each with the name of its class as caption.

    The name of a class is that of its folder, with a space for each ``_``. The ids are the names of the images,
    relative to the folder. Hidden files and folders, and files that are not images, are ignored.

    Raises:
        UserError: If no folder of a class has an image.
    """
    folder = location.files[0]
    entries = list(_entries(folder))
    if not entries:
        raise UserError(f"{folder} has no folder with images: the folders of the classes lie in it, as CLASS/NAME.jpg")
    images = None if location.captions_only else folder
    return check_entries(replace(location, images=images), entries)


def _entries(folder: Path) -> Iterator[Entry]:
    for name in _names(folder):
        if not (folder / name).is_dir():
            continue
        for image in _names(folder / name):
            if image.lower().endswith(IMAGES):
                relative = f"{name}/{image}"
                yield Entry(str(folder / name), relative, relative, [name.replace("_", " ")])


def _names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
