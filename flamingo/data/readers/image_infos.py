"""Images of test sets without captions: COCO's image_info_*.json, and the test sets of NoCaps, VizWiz and TextCaps."""

from pathlib import Path
from typing import Any

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, field_of, images_of
from flamingo.data.records.record import LazySequence, Record, RecordList, check_id
from flamingo.data.splits import TEST
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json


def image_infos(location: Location) -> LazySequence:
    """Returns the images of a file that lists images without captions. Their split is ``test``.

    The file has a list of ``images``, as COCO's, or of ``data``, as TextCaps's.

    Raises:
        UserError: For a malformed file, by its row, for an id of ``images`` that occurs twice, and if an image does not
            exist (unless the location skips missing ones).
    """
    file = location.files[0]
    entries = _entries(file)
    if not entries:
        raise UserError(f"{file} has no image")
    images = images_of(location, entries)
    records = []
    skipped = {}
    for entry in entries:
        if entry.id in images:
            image = images[entry.id]
            records.append(Record(entry.id, image, (), TEST, group=entry.group, image_id=entry.image_id))
        else:
            skipped[entry.id] = f"the image file does not exist: {entry.name}"
    if not records:
        raise UserError(f"{file} has no image whose file exists")
    return RecordList(records, skipped)


def is_image_infos(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``images`` or ``data`` that name images and have no text."""
    content = candidate.json
    if not isinstance(content, dict) or content.get("annotations"):
        return False
    row = candidate.first_element("data")
    is_textcaps = has_field(row, "image_id") and not has_field(row, "caption_str") and not has_field(row, "question")
    return is_textcaps or has_field(candidate.first_element("images"), "file_name")


def _entries(file: Path) -> list[Entry]:
    content = read_json(file)
    key = "data" if has_field(content, "data") else "images"
    read = _of_textcaps if key == "data" else _of_coco
    entries: dict[str, Entry] = {}
    for number, row in enumerate(field_of(content, key, list, file)):
        entry = read(row, f"{file}, {key}[{number}]")
        check_id(entry.id, entry.origin)
        if entry.id in entries and key == "images":  # TextCaps's file may have several rows of an image
            raise UserError(f"{entry.origin} repeats the image {entry.id!r} of {entries[entry.id].origin}")
        entries[entry.id] = entry
    return list(entries.values())


def _of_coco(row: Any, origin: str) -> Entry:
    id = field_of(row, "id", int | str, origin)
    name = field_of(row, "file_name", str, origin)
    return Entry(origin, str(id), name, [], group=field_of(row, "domain", str | None, origin), image_id=id)


def _of_textcaps(row: Any, origin: str) -> Entry:
    id = field_of(row, "image_id", str, origin)
    return Entry(origin, id, f"{id}.jpg", [], image_id=id)
