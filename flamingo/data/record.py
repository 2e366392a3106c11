"""Captioned images as they are distributed: a file of captions and a folder of photographs.

Each reader returns what a file says of its images, in the file's order. :func:`collected` finds their photographs,
:func:`usable_captions` needs none. Photographs are looked up at once and opened when they are needed.

A file whose structure is wrong, or that names a photograph that does not exist, is a UserError that names file, place
and value. An image with a caption that cannot be used (an empty one, half a character) or with none is left out,
counted and logged.
"""

import logging
import os
import re
import reprlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

from flamingo.data.document import Image
from flamingo.data.readers.listings import Listings
from flamingo.data.rows import read_json, records
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionedImage:
    """An image with all its captions, in the source's order: at least one, none of them empty.

    ``id`` is the source's own, unique within it or within its split. ``split`` is None where the source names none.
    """

    id: str
    image: Image
    captions: tuple[str, ...]
    split: str | None


class Lazy(Sequence[CaptionedImage]):
    """A sequence whose items are made when they are asked for."""

    #: By id why an image was left out; with a file's name as the id, why a part of the file was.
    skipped: dict[str, str]

    @abstractmethod
    def item(self, place: int) -> CaptionedImage:
        """Return the image at ``place``, which lies in [0, len)."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> CaptionedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[CaptionedImage]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> CaptionedImage | list[CaptionedImage]:
        chosen = range(len(self))[index]
        return [self.item(place) for place in chosen] if isinstance(chosen, range) else self.item(chosen)


class Listed(Lazy):
    """The images of a file of captions."""

    def __init__(self, images: Sequence[CaptionedImage], skipped: dict[str, str]) -> None:
        self.images, self.skipped = images, skipped

    def __len__(self) -> int:
        return len(self.images)

    def item(self, place: int) -> CaptionedImage:
        return self.images[place]


def captions_of(value: Any) -> tuple[str, ...]:
    """Return one caption, or a list of them, as a tuple; blanks around a caption are removed.

    Line breaks within a caption are white space: each becomes one blank.

    Raises:
        UserError: For no caption, an empty one, half a character, and what is no text. The message begins with the
            kind of the fault, up to a colon; see :func:`by_reason`.
    """
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"captions must be texts: got {reprlib.repr(value)}")
    if not captions:
        raise UserError("there is no caption")
    if not all(caption.strip() for caption in captions):
        raise UserError(f"a caption is empty: {reprlib.repr(value)}")
    try:
        "".join(captions).encode()
    except UnicodeEncodeError as error:  # JSON can hold half a character, which no tokenizer takes
        raise UserError(f"a caption has half a character: {error}") from error
    return tuple(re.sub(r"\s*[\r\n]\s*", " ", caption.strip()) for caption in captions)


def split_named(value: Any) -> str | None:
    """Return a split as a record names it, None for null and for an empty text.

    Raises:
        UserError: If it is no text.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UserError(f"a split must be a text: got {reprlib.repr(value)}")
    return value


def check_id(id: str, where: str) -> None:
    """Raise UserError for an id with half a character, which no file of results could hold."""
    try:
        id.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: the id {id!r} is no text of Unicode") from error


def by_reason(skipped: Mapping[str, str]) -> str:
    """Return for a log how many images were left out for each kind of reason, and an example of each.

    A kind is what stands before the first colon of a reason.
    """
    kinds = {id: reason.partition(": ")[0] for id, reason in skipped.items()}
    examples = {kind: id for id, kind in reversed(kinds.items())}
    counted = Counter(kinds.values()).most_common()
    return "; ".join(f"{kind} ({count}, the first {examples[kind]})" for kind, count in counted)


def metadata_files(folder: Path) -> list[Path]:
    """Those of an image folder."""
    return sorted(
        file for deep in ("", "*/") for kind in ("jsonl", "csv") for file in folder.glob(f"{deep}metadata.{kind}")
    )


# --------------------------------------------------------------------------------- readers


class Entry(NamedTuple):
    """What a file says of one image, unchecked; ``where`` names the place for errors."""

    where: str
    id: str
    #: The photograph's file, relative to the folder of the photographs.
    name: str
    captions: list[Any]
    split: Any = None


def coco(file: Path) -> list[Entry]:
    """Read COCO's ``captions_*.json``. An image's id is COCO's; the file names no splits."""
    data = read_json(file)
    entries: dict[int | str, Entry] = {}
    for place, image in enumerate(_field(data, "images", list, file)):
        where = f"{file}, images[{place}]"
        id = _field(image, "id", int | str, where)
        if id in entries:
            raise UserError(f"{where}: the image {id!r} is there already, at {entries[id].where}")
        entries[id] = Entry(where, str(id), _field(image, "file_name", str, where), [])
    for place, annotation in enumerate(_field(data, "annotations", list, file)):
        where = f"{file}, annotations[{place}]"
        id = _field(annotation, "image_id", int | str, where)
        if id not in entries:
            raise UserError(f"{where} is a caption for the image {id!r}, which is not listed")
        entries[id].captions.append(_field(annotation, "caption", str, where))
    return list(entries.values())


def karpathy(file: Path) -> list[Entry]:
    """Read Karpathy's ``dataset_coco.json``, ``dataset_flickr8k.json`` or ``dataset_flickr30k.json`` with his splits.

    The ids are COCO's where it has them, else file names; "restval" stays a split of its own. Fields that are null or
    empty count as absent.
    """
    entries = []
    for place, image in enumerate(_field(read_json(file), "images", list, file)):
        where = f"{file}, images[{place}]"
        name = _field(image, "filename", str, where)
        sentences = _field(image, "sentences", list | None, where) or []
        captions = [_field(sentence, "raw", str | None, where) or "" for sentence in sentences]
        folder = _field(image, "filepath", str | None, where)
        coco_id = _field(image, "cocoid", int | str | None, where)
        id = name if coco_id in (None, "") else str(coco_id)
        path = f"{folder}/{name}" if folder else name
        entries.append(Entry(where, id, path, captions, image.get("split")))
    return entries


def jsonl(file: Path) -> list[Entry]:
    """Read rows ``{"image": NAME, "captions": [...]}``, or with ``"caption": "..."``.

    They may also have ``"id"``, by default the image's name, and ``"split"``.
    """
    fields = {"image", "captions", "caption", "id", "split"}
    entries = []
    for where, row in records(file):
        if unknown := row.keys() - fields:
            raise UserError(f"{where} has the unknown field {min(unknown)!r}; known are {', '.join(sorted(fields))}")
        name = _field(row, "image", str, where)
        id = str(_field(row, "id", int | str, where)) if "id" in row else name
        captions = captions_in(row, ("captions", "caption"), where)
        entries.append(Entry(where, id, name, captions, row.get("split")))
    return entries


def image_folder(folder: Path) -> list[Entry]:
    """Read Hugging Face's layout: ``metadata.jsonl`` or ``metadata.csv`` with ``file_name`` and ``text``.

    It lies in ``folder``, or in each of its sub-folders, whose names then are the splits; a field ``split`` wins.
    Instead of ``text`` there may be ``caption``, or ``captions``: a list. Further fields are ignored. The ids are the
    file names, relative to ``folder``.
    """
    files = metadata_files(folder)
    if not files:
        raise UserError(f"{folder} has neither metadata.jsonl nor metadata.csv, nor has a folder in it")
    holders = [file.parent for file in files]
    if len(set(holders)) < len(files) or (folder in holders and len(files) > 1):
        raise UserError(f"{folder} has several files of metadata for the same images: {', '.join(map(str, files))}")
    entries = []
    for file in files:
        below = None if file.parent == folder else file.parent.name
        for where, row in records(file):
            name = _field(row, "file_name", str, where)
            name = name if below is None else f"{below}/{name}"
            captions = captions_in(row, ("text", "caption", "captions"), where)
            named = row.get("split")
            entries.append(Entry(where, name, name, captions, below if named in (None, "") else named))
    return entries


# ------------------------------------------------------------------------- what they share


def collected(file: Path, entries: list[Entry], images: Path | None) -> Listed:
    """Return the images that the entries of a file describe.

    Args:
        file: The file, or the folder of its metadata.
        entries: What a reader returned for it.
        images: The folder of the photographs; by default it is searched around the file.

    Raises:
        UserError: For a photograph that does not exist, and as :func:`usable_captions` does.
    """
    captions, skipped = usable_captions(file, entries)
    listings = Listings()
    folder = _folder_around(file, entries[0].name, listings) if images is None else images
    found: list[CaptionedImage] = []
    for where, id, name, _, split in entries:
        path = listings.find(folder, name)
        if path is None:
            raise UserError(f"{where}: the image {name!r} is not in {folder}, or is no regular file there")
        if id in captions:
            found.append(CaptionedImage(id, Image(str(path)), captions[id], _split(split, where)))
    return Listed(found, skipped)


def usable_captions(file: Path, entries: list[Entry]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return by id the captions of each image, and why other images are left out; no photograph is needed.

    Raises:
        UserError: For captions that are no texts, an id that occurs twice, and where no image is left.
    """
    usable: dict[str, tuple[str, ...]] = {}
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}
    for where, id, _, captions, _ in entries:
        check_id(id, where)
        if id in seen:
            raise UserError(f"{where}: the image {id!r} is there already, at {seen[id]}")
        seen[id] = where
        if not all(isinstance(caption, str) for caption in captions):
            raise UserError(f"{where}: captions must be texts, got {reprlib.repr(captions)}")
        try:
            usable[id] = captions_of(captions)
        except UserError as error:
            skipped[id] = str(error)
    if not usable:
        raise UserError(f"{file} has no captions{f' that can be used: {by_reason(skipped)}' if skipped else ''}")
    if skipped:
        log.warning("%s: left out %d: %s", file, len(skipped), by_reason(skipped))
    return usable, skipped


def _split(value: Any, where: str) -> str | None:
    try:
        return split_named(value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _folder_around(file: Path, name: str, listings: Listings) -> Path:
    """The file's folder, or a folder in it, that has the image; for some folders also those next to it."""
    around = [file.parent]
    if file.parent.name in _NEXT_TO_IMAGES:
        around.append(file.parent.parent)
    folders = around + [Path(entry) for parent in around for entry in os.scandir(parent) if entry.is_dir()]
    found = {path: folder for folder in folders if (path := listings.find(folder, name)) is not None}
    if len(found) == 1:
        return found.popitem()[1]
    places = f"is in {', '.join(sorted(map(str, found.values())))}" if found else "no folder around it has"
    raise UserError(f"{file} begins with the image {name!r}, which {places}; say which folder has the images")


#: Folders of captions, as they are distributed, that lie next to the folders of their images.
_NEXT_TO_IMAGES = ("annotations", "Flickr8k_text")


def _field(record: Any, name: str, kind: Any, where: str | Path) -> Any:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        wanted = {str: "a text", list: "a list"}.get(kind, "a number or a text")
        raise UserError(f"{where} needs {name!r}, {wanted}; got {reprlib.repr(value)}")
    return value


def captions_in(row: dict[str, Any], names: tuple[str, ...], where: str) -> list[Any]:
    """Return the captions in the one of these fields that is there: ``captions`` is a list, the others one text.

    They are not checked further. Raises UserError, with ``where``, for none or several of the fields, and other types.
    """
    there = [name for name in names if name in row]
    if len(there) != 1:
        raise UserError(f"{where} must have one of {', '.join(names)}; it has {', '.join(there) or 'none of them'}")
    return _field(row, "captions", list, where) if there == ["captions"] else [_field(row, there[0], str, where)]
