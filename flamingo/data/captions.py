"""Captioned images as they are distributed: a file of captions beside a folder of photographs.

Each reader takes the file and the folder ``images`` that the names in it start from; without one it is
looked for around the file. It gives a list in the file's order; captions lose the blanks around them.
Whatever does not fit, or is not there, is a UserError that names file, place and value. Photographs are
looked for at once and opened when needed.
"""

import os
import reprlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

from flamingo.data.document import Image
from flamingo.data.rows import read_json, records
from flamingo.utils.errors import UserError


@dataclass(frozen=True)
class CaptionedImage:
    """``id`` is unique within its source and kept from it; ``split`` is as the source says it, None where it is silent.

    ``captions`` are all references, in the source's order, at least one; none is empty.
    """

    id: str
    image: Image
    captions: tuple[str, ...]
    split: str | None


class Lazy(Sequence[CaptionedImage]):
    """A sequence whose items are made when they are asked for."""

    @abstractmethod
    def item(self, place: int) -> CaptionedImage:
        """The one at ``place``, which lies in [0, len)."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> CaptionedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[CaptionedImage]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> CaptionedImage | list[CaptionedImage]:
        chosen = range(len(self))[index]
        return [self.item(place) for place in chosen] if isinstance(chosen, range) else self.item(chosen)


def captions_of(value: Any) -> tuple[str, ...]:
    """One caption or a list of them. Raises UserError for no caption, an empty one, and what is no text."""
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"captions must be texts, got {reprlib.repr(value)}")
    if not captions:
        raise UserError("there is no caption")
    if not all(caption.strip() for caption in captions):
        raise UserError(f"a caption is empty: {reprlib.repr(value)}")
    # JSON can hold half a character, which no tokenizer takes; the UnicodeEncodeError is a ValueError.
    "".join(captions).encode()
    return tuple(caption.strip() for caption in captions)


def metadata_files(folder: Path) -> list[Path]:
    """Those of an image folder."""
    return sorted(
        file for deep in ("", "*/") for kind in ("jsonl", "csv") for file in folder.glob(f"{deep}metadata.{kind}")
    )


# --------------------------------------------------------------------------------- readers


def coco(file: Path, images: Path | None = None) -> list[CaptionedImage]:
    """COCO's ``captions_*.json``. An image's id is COCO's; the file says nothing of splits."""
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
    return collected(file, list(entries.values()), images)


def karpathy(file: Path, images: Path | None = None) -> list[CaptionedImage]:
    """Karpathy's ``dataset_coco.json``, ``dataset_flickr8k.json`` or ``dataset_flickr30k.json``, with his splits.

    The ids are COCO's where it has them, else file names; "restval" stays a split of its own.
    """
    entries = []
    for place, image in enumerate(_field(read_json(file), "images", list, file)):
        where = f"{file}, images[{place}]"
        name = _field(image, "filename", str, where)
        captions = [_field(sentence, "raw", str, where) for sentence in _field(image, "sentences", list, where)]
        path = f"{image['filepath']}/{name}" if "filepath" in image else name
        split = _field(image, "split", str, where)
        entries.append(Entry(where, str(image.get("cocoid", name)), path, captions, split))
    return collected(file, entries, images)


def jsonl(file: Path, images: Path | None = None) -> list[CaptionedImage]:
    """One's own: rows ``{"image": NAME, "captions": [...]}``, or with ``"caption": "..."``.

    They may also have ``"id"``, else it is the image's name, and ``"split"``.
    """
    fields = {"image", "captions", "caption", "id", "split"}
    entries = []
    for where, row in records(file):
        if unknown := row.keys() - fields:
            raise UserError(f"{where} has the unknown field {min(unknown)!r}; known are {', '.join(sorted(fields))}")
        name = _field(row, "image", str, where)
        split = _field(row, "split", str, where) if "split" in row else None
        id = str(_field(row, "id", int | str, where)) if "id" in row else name
        entries.append(Entry(where, id, name, _captions(row, ("captions", "caption"), where), split))
    return collected(file, entries, images)


def image_folder(folder: Path) -> list[CaptionedImage]:
    """Hugging Face's layout: ``metadata.jsonl`` or ``metadata.csv`` with ``file_name`` and ``text``, in it or in each
    sub-folder, whose names then are the splits.

    Instead of ``text`` there may be ``caption``, or ``captions``: a list. Further fields say nothing of
    captions and are let be. The ids are the file names, from ``folder`` on.
    """
    files = metadata_files(folder)
    if not files:
        raise UserError(f"{folder} has neither metadata.jsonl nor metadata.csv, nor has a folder in it")
    holders = [file.parent for file in files]
    if len(set(holders)) < len(files) or (folder in holders and len(files) > 1):
        raise UserError(f"{folder} has several files of metadata for the same images: {', '.join(map(str, files))}")
    entries = []
    for file in files:
        split = None if file.parent == folder else file.parent.name
        for where, row in records(file):
            name = _field(row, "file_name", str, where)
            name = name if split is None else f"{split}/{name}"
            entries.append(Entry(where, name, name, _captions(row, ("text", "caption", "captions"), where), split))
    return collected(folder, entries, folder)


# ------------------------------------------------------------------------- what they share


class Entry(NamedTuple):
    """What a file says of one image, unchecked; ``where`` names the place for errors."""

    where: str
    id: str
    name: str
    captions: list[Any]
    split: str | None = None


def collected(file: Path, entries: list[Entry], images: Path | None) -> list[CaptionedImage]:
    """Checked: captions, ids, and that every photograph is there."""
    if not entries:
        raise UserError(f"{file} lists no image")
    folder = _folder_around(file, entries[0].name) if images is None else images
    listing = cache(lambda parent: {entry.name for entry in os.scandir(parent)} if parent.is_dir() else set())
    seen: dict[str, str] = {}
    checked = []
    for where, id, name, captions, split in entries:
        if id in seen:
            raise UserError(f"{where}: the image {id!r} is there already, at {seen[id]}")
        seen[id] = where
        path = folder / name
        if not name or path.name not in listing(path.parent):
            raise UserError(f"{where}: the image {name!r} is not in {folder}")
        try:
            checked.append(CaptionedImage(id, Image(str(path)), captions_of(captions), split))
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
    return checked


def _folder_around(file: Path, name: str) -> Path:
    """The file's folder, or a folder in it, that has the image; for ``annotations/FILE`` also a folder beside it."""
    around = [file.parent] + [file.parent.parent] * (file.parent.name == "annotations")
    folders = around + [Path(entry) for parent in around for entry in os.scandir(parent) if entry.is_dir()]
    found = {folder / name: folder for folder in folders if (folder / name).exists()}
    if len(found) == 1:
        return found.popitem()[1]
    places = f"is in {', '.join(sorted(map(str, found.values())))}" if found else "no folder around it has"
    raise UserError(f"{file} begins with the image {name!r}, which {places}; say which folder has the images")


def _field(record: Any, name: str, kind: Any, where: str | Path) -> Any:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        wanted = {str: "a text", list: "a list"}.get(kind, "a number or a text")
        raise UserError(f"{where} needs {name!r}, {wanted}; got {reprlib.repr(value)}")
    return value


def _captions(row: dict[str, Any], names: tuple[str, ...], where: str) -> list[Any]:
    """Of the one of these fields that is there, unchecked: ``captions`` is a list, the others are one caption."""
    there = [name for name in names if name in row]
    if len(there) != 1:
        raise UserError(f"{where} must have one of {', '.join(names)}; it has {', '.join(there) or 'none of them'}")
    return _field(row, "captions", list, where) if there == ["captions"] else [_field(row, there[0], str, where)]
