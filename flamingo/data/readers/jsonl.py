"""A file of JSON lines with one image per line."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, captions_in, check_entries, field_of
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import rows

_FIELDS = {"image", "captions", "caption", "id", "split"}


def jsonl(location: Location) -> LazySequence:
    """Returns the images of rows ``{"image": NAME, "captions": [...]}`` or ``{"image": NAME, "caption": "..."}``.

    Rows may also have ``"id"``, by default the image's name, and ``"split"``.

    Raises:
        UserError: For a malformed row, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    return check_entries(location, _entries(location.files[0]))


def is_jsonl(candidate: Candidate) -> bool:
    """Returns whether the first line is a JSON object that has an ``image``, and no ``question``."""
    return has_field(candidate.first_row, "image") and not has_field(candidate.first_row, "question")


def _entries(file: Path) -> list[Entry]:
    entries = []
    for origin, row in rows(file):
        unknown = row.keys() - _FIELDS
        if unknown:
            known = ", ".join(sorted(_FIELDS))
            raise UserError(f"{origin} has the unknown field {min(unknown)!r}; known are {known}")
        name = field_of(row, "image", str, origin)
        id = str(field_of(row, "id", int | str, origin)) if "id" in row else name
        captions = captions_in(row, ("captions", "caption"), origin)
        entries.append(Entry(origin, id, name, captions, row.get("split")))
    return entries
