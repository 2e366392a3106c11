"""TextCaps's TextCaps_0.1_train.json and TextCaps_0.1_val.json."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, check_entries, field_of
from flamingo.data.records.record import LazySequence
from flamingo.utils.reading import read_json


def textcaps(location: Location) -> LazySequence:
    """Returns the images of TextCaps's file, which has a row for each caption. Their split is its ``set_name``.

    Raises:
        UserError: For a malformed file, by its row, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    return check_entries(location, _entries(location.files[0]))


def is_textcaps(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``data`` that have a ``caption_str``."""
    return has_field(candidate.first_element("data"), "caption_str")


def _entries(file: Path) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for number, row in enumerate(field_of(read_json(file), "data", list, file)):
        origin = f"{file}, data[{number}]"
        id = field_of(row, "image_id", str, origin)
        entry = entries.setdefault(id, Entry(origin, id, f"{id}.jpg", [], row.get("set_name"), image_id=id))
        entry.captions.append(field_of(row, "caption_str", str, origin))
    return list(entries.values())
