"""COCO's captions_*.json, and the files of NoCaps and of VizWiz's captions, which have the same layout."""

import logging
from pathlib import Path
from typing import Any

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, check_entries, field_of
from flamingo.data.records.record import LazySequence, RecordList
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json

log = logging.getLogger(__name__)

#: The marks of VizWiz's captions that its evaluation code leaves out: spam, and the sentence for images without content
#: that can be recognised.
_REJECTED = ("is_rejected", "is_precanned")


def coco(location: Location) -> LazySequence:
    """Returns the images of COCO's ``captions_*.json``. An image's id is COCO's; the file names no splits.

    NoCaps's ``domain`` of an image is its group. Captions that VizWiz marks as rejected or as a prepared sentence are
    left out and counted, unless the location keeps them.

    Raises:
        UserError: For a malformed file, by its row, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    file = location.files[0]
    content = read_json(file)
    annotations, rejected = _annotations(content, file, location.keeps_rejected)
    records = check_entries(location, _entries(content, file, annotations))
    if not rejected:
        return records
    reason = f"its captions are marked as rejected: {rejected} of {rejected + len(annotations)} captions"
    log.warning("%s: left out %d captions that are marked as rejected", file, rejected)
    return RecordList(records.records, records.skipped | {str(file): reason})


def is_coco(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``annotations`` that have a ``caption``."""
    return has_field(candidate.first_element("annotations"), "caption")


def _annotations(content: Any, file: Path, keeps_rejected: bool) -> tuple[list[tuple[str, Any]], int]:
    """Returns the captions that are used, each with its origin, and the number of rejected ones."""
    annotations = []
    rejected = 0
    for number, annotation in enumerate(field_of(content, "annotations", list, file)):
        if not keeps_rejected and _is_rejected(annotation):
            rejected += 1
        else:
            annotations.append((f"{file}, annotations[{number}]", annotation))
    return annotations, rejected


def _is_rejected(annotation: Any) -> bool:
    return isinstance(annotation, dict) and any(annotation.get(mark) for mark in _REJECTED)


def _entries(content: Any, file: Path, annotations: list[tuple[str, Any]]) -> list[Entry]:
    entries: dict[int | str, Entry] = {}
    for number, image in enumerate(field_of(content, "images", list, file)):
        origin = f"{file}, images[{number}]"
        id = field_of(image, "id", int | str, origin)
        if id in entries:
            raise UserError(f"{origin} repeats the image {id!r} of {entries[id].origin}")
        domain = field_of(image, "domain", str | None, origin)
        name = field_of(image, "file_name", str, origin)
        entries[id] = Entry(origin, str(id), name, [], group=domain, image_id=id)
    for origin, annotation in annotations:
        id = field_of(annotation, "image_id", int | str, origin)
        if id not in entries:
            raise UserError(f"{origin} is a caption for the image {id!r}, which is not listed")
        entries[id].captions.append(field_of(annotation, "caption", str, origin))
    return list(entries.values())
