"""Entries of a file of captions -> records, with the files of their images.

A reader of such a file returns the entries of the file in its order, unchecked. :func:`check_entries` makes records of
them. It finds the image files at once; they are opened when they are needed.

A wrong structure, or a missing image file, is a UserError that names file, line and value. An image whose captions are
missing or unusable (an empty one, or one with half a character) is left out, counted and logged. On request, so is an
image whose file is missing.
"""

import logging
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flamingo.data.document import Image
from flamingo.data.readers import Location
from flamingo.data.readers.listings import Listings
from flamingo.data.records.record import Record, RecordList, by_reason, captions_of, check_id, split_named
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

#: Folders of captions that are distributed next to the folders of their images.
_NEXT_TO_IMAGES = ("annotations", "Annotations", "Flickr8k_text")
#: How errors name the types of fields.
_TYPE_NAMES = {str: "a text", list: "a list", dict: "an object"}


class MissingImagesError(UserError):
    """Image files that captions name do not exist."""


@runtime_checkable
class NamesImage(Protocol):
    """An entry of a file that names an image."""

    @property
    def origin(self) -> str:
        """The file and the line or element, for errors."""
        ...

    @property
    def id(self) -> str:
        """The id of the entry."""
        ...

    @property
    def name(self) -> str:
        """The image's file, relative to the folder of the images."""
        ...


class Entry(NamedTuple):
    """The unchecked fields of an image in a file of captions."""

    #: The file and the line or element, for errors.
    origin: str
    id: str
    #: The image's file, relative to the folder of the images.
    name: str
    captions: list[Any]
    split: Any = None
    #: These two: see :class:`flamingo.data.records.record.Record`.
    group: str | None = None
    image_id: int | str | None = None


def check_entries(location: Location, entries: list[Entry]) -> RecordList:
    """Returns the records of a file's entries.

    Args:
        location: Where the data set lies.
        entries: The entries of its file of captions.

    Raises:
        UserError: If an image does not exist, unless only captions are needed or the location skips missing images; if
            no image is left; and as :func:`usable_captions`.
    """
    file = location.files[0]
    captions, skipped = usable_captions(file, entries)
    images = images_of(location, entries)
    missing: dict[str, str] = {}
    records = []
    for entry in entries:
        if entry.id not in images:
            missing[entry.id] = f"the image file does not exist: {entry.name}"
        elif entry.id in captions:
            split = _split(entry)
            image, image_id = images[entry.id], entry.image_id
            records.append(Record(entry.id, image, captions[entry.id], split, group=entry.group, image_id=image_id))
    if missing:
        log.warning("%s: left out %d: %s", file, len(missing), by_reason(missing))
    if not records:
        raise UserError(f"{file} has no image with a caption: {by_reason(skipped | missing)}")
    return RecordList(records, skipped | missing)


def images_of(location: Location, entries: Sequence[NamesImage]) -> dict[str, Image]:
    """Returns by id the images that exist; all of them, unless the location skips those that do not.

    Raises:
        MissingImagesError: If some do not exist, and the location does not skip them.
    """
    if location.captions_only and location.images is None:
        return {entry.id: Image(entry.name) for entry in entries}
    listings = Listings()
    if location.images is None:
        folder = _folder_around(location.files[0], entries, listings)
    else:
        folder = _folder_in(location.images, entries, listings)
    images: dict[str, Image] = {}
    missing: list[NamesImage] = []
    for entry in entries:
        path = listings.find(folder, entry.name)
        if path is None:
            missing.append(entry)
        else:
            images[entry.id] = Image(str(path))
    if missing and not location.skips_missing:
        first = missing[0]
        raise MissingImagesError(
            f"{first.origin}: the image {first.name!r} is not a regular file in {folder}; "
            f"{len(missing)} of {len(entries)} images do not exist"
        )
    return images


def usable_captions(file: Path, entries: list[Entry]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Returns id -> the captions of an image, and id -> the reason why another image is left out.

    Raises:
        UserError: If captions are not texts, an id occurs twice, or no image is left.
    """
    usable: dict[str, tuple[str, ...]] = {}
    skipped: dict[str, str] = {}
    origins: dict[str, str] = {}
    for entry in entries:
        check_id(entry.id, entry.origin)
        if entry.id in origins:
            raise UserError(f"{entry.origin} repeats the image {entry.id!r} of {origins[entry.id]}")
        origins[entry.id] = entry.origin
        if not all(isinstance(caption, str) for caption in entry.captions):
            raise UserError(f"{entry.origin}: captions must be texts, got {reprlib.repr(entry.captions)}")
        try:
            usable[entry.id] = captions_of(entry.captions)
        except UserError as error:
            skipped[entry.id] = str(error)
    if not usable:
        reasons = f" that can be used: {by_reason(skipped)}" if skipped else ""
        raise UserError(f"{file} has no captions{reasons}")
    if skipped:
        log.warning("%s: left out %d: %s", file, len(skipped), by_reason(skipped))
    return usable, skipped


def _split(entry: Entry) -> str | None:
    try:
        return split_named(entry.split)
    except UserError as error:
        raise UserError(f"{entry.origin}: {error}") from error


def _folder_around(file: Path, entries: Sequence[NamesImage], listings: Listings) -> Path:
    """Returns the folder that has the first image that exists: the file's own, one in it, or for some one next to it.

    Raises:
        UserError: If no such folder has an image, or several have the same one.
    """
    parents = [file.parent]
    if file.parent.name in _NEXT_TO_IMAGES:
        parents.append(file.parent.parent)
    folders = list(parents)
    for parent in parents:
        folders += _folders_in(parent)
    folder = _first_holder(folders, entries, listings)
    if folder is None:
        raise UserError(
            f"{file} begins with the image {entries[0].name!r}, and no folder around it has one of its images: set "
            "images= to the folder of the images"
        )
    return folder


def _folder_in(folder: Path, entries: Sequence[NamesImage], listings: Listings) -> Path:
    """Returns the folder if it has one of the images, or else the folder in it that has the first image that exists.

    COCO's ``train2014`` and ``val2014`` may thus lie in one folder. The folder itself is returned if there is no image.

    Raises:
        UserError: If several folders in it have the same image.
    """
    if _first_holder([folder], entries, listings) is None and folder.is_dir():
        return _first_holder(_folders_in(folder), entries, listings) or folder
    return folder


def _first_holder(folders: Sequence[Path], entries: Sequence[NamesImage], listings: Listings) -> Path | None:
    """Returns the folder that has the first image that one of the folders has; None if they have none.

    Raises:
        UserError: If several folders have it.
    """
    for entry in entries:
        holders: dict[Path, Path] = {}
        for folder in folders:
            path = listings.find(folder, entry.name)
            if path is not None:
                holders[path] = folder
        if len(holders) == 1:
            return holders.popitem()[1]
        if holders:
            names = ", ".join(sorted(map(str, holders.values())))
            raise UserError(f"{entry.origin}: the image {entry.name!r} is in {names}: set images= to one of them")
    return None


def _folders_in(folder: Path) -> list[Path]:
    return [Path(entry) for entry in os.scandir(folder) if entry.is_dir()]


def field_of(record: Any, name: str, kind: Any, origin: str | Path) -> Any:
    """Returns a field of a JSON object.

    Args:
        record: The object, or whatever the file has in its place.
        name: The name of the field.
        kind: The type of the field.
        origin: The file and the row, for errors.

    Raises:
        UserError: If the field is missing or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        wanted = _TYPE_NAMES.get(kind, "a number or a text")
        raise UserError(f"{origin} needs {name!r}, {wanted}; got {reprlib.repr(value)}")
    return value


def captions_in(row: dict[str, Any], names: tuple[str, ...], origin: str) -> list[Any]:
    """Returns the unchecked captions of a row.

    Args:
        row: The row.
        names: The fields that may hold captions: ``captions`` is a list, any other is one text.
        origin: The file and the row, for errors.

    Raises:
        UserError: If the row has none or several of the fields, or one of another type.
    """
    present = [name for name in names if name in row]
    if len(present) != 1:
        existing = ", ".join(present) or "none of them"
        raise UserError(f"{origin} must have one of {', '.join(names)}; it has {existing}")
    if present == ["captions"]:
        return field_of(row, "captions", list, origin)
    return [field_of(row, present[0], str, origin)]
