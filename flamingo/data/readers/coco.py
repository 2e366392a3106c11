"""COCO's captions_*.json."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, check_entries, field_of
from flamingo.data.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json


def coco(location: Location) -> LazySequence:
    """Returns the images of COCO's ``captions_*.json``. An image's id is COCO's; the file names no splits.

    Raises:
        UserError: For a malformed file, by its row, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    return check_entries(location, _entries(location.files[0]))


def is_coco(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``annotations`` that have a ``caption``."""
    return has_field(candidate.first_element("annotations"), "caption")


def _entries(file: Path) -> list[Entry]:
    data = read_json(file)
    entries: dict[int | str, Entry] = {}
    for number, image in enumerate(field_of(data, "images", list, file)):
        origin = f"{file}, images[{number}]"
        id = field_of(image, "id", int | str, origin)
        if id in entries:
            raise UserError(f"{origin} repeats the image {id!r} of {entries[id].origin}")
        entries[id] = Entry(origin, str(id), field_of(image, "file_name", str, origin), [])
    for number, annotation in enumerate(field_of(data, "annotations", list, file)):
        origin = f"{file}, annotations[{number}]"
        id = field_of(annotation, "image_id", int | str, origin)
        if id not in entries:
            raise UserError(f"{origin} is a caption for the image {id!r}, which is not listed")
        entries[id].captions.append(field_of(annotation, "caption", str, origin))
    return list(entries.values())
