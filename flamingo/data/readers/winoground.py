"""Winoground's examples.jsonl: pairs of images, whose two captions have the same words in another order."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, check_entries, field_of
from flamingo.data.records.caption_pair_record import CaptionPairRecord
from flamingo.data.records.record import LazySequence, Record, RecordList
from flamingo.utils.reading import rows


def winoground(location: Location) -> LazySequence:
    """Returns both images of rows ``{"id": 0, "image_0": "ex_0_img_0", "caption_0": "...", "image_1": ...}``.

    An image without a suffix in its name is a PNG. The ids of the images are ``ID/0`` and ``ID/1``.

    Raises:
        UserError: For a malformed row, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    found = check_entries(location, _entries(location.files[0]))
    by_id = {record.id: record for record in found}
    records: list[Record] = []
    for id, record in by_id.items():
        pair, _, side = id.rpartition("/")
        other = by_id.get(f"{pair}/{1 - int(side)}")
        if other is None:
            found.skipped[id] = f"the other image of its pair is left out: {pair}"
            continue
        records.append(
            CaptionPairRecord(id, record.image, record.captions, None, pair=pair, other_caption=other.captions[0])
        )
    return RecordList(records, found.skipped)


def is_winoground(candidate: Candidate) -> bool:
    """Returns whether the first line is a JSON object with an ``image_0`` and a ``caption_0``."""
    return has_field(candidate.first_row, "image_0") and has_field(candidate.first_row, "caption_0")


def _entries(file: Path) -> list[Entry]:
    entries = []
    for origin, row in rows(file):
        id = field_of(row, "id", int | str, origin)
        for side in (0, 1):
            name = field_of(row, f"image_{side}", str, origin)
            file_name = name if Path(name).suffix else f"{name}.png"
            caption = field_of(row, f"caption_{side}", str, origin)
            entries.append(Entry(origin, f"{id}/{side}", file_name, [caption]))
    return entries
