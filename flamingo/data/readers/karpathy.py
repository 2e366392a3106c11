"""Karpathy's dataset_coco.json, dataset_flickr8k.json and dataset_flickr30k.json, with his splits."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import Entry, check_entries, field_of
from flamingo.data.records.record import LazySequence
from flamingo.utils.reading import read_json


def karpathy(location: Location) -> LazySequence:
    """Returns the images of Karpathy's ``dataset_*.json``.

    The ids are COCO's if the file has them, otherwise file names. "restval" is a split of its own. Fields that are
    null or empty count as absent.

    Raises:
        UserError: For a malformed file, by its row, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    return check_entries(location, _entries(location.files[0]))


def is_karpathy(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``images`` that have ``sentences``."""
    return has_field(candidate.first_element("images"), "sentences")


def _entries(file: Path) -> list[Entry]:
    entries = []
    for number, image in enumerate(field_of(read_json(file), "images", list, file)):
        origin = f"{file}, images[{number}]"
        name = field_of(image, "filename", str, origin)
        sentences = field_of(image, "sentences", list | None, origin) or []
        captions = [field_of(sentence, "raw", str | None, origin) or "" for sentence in sentences]
        folder = field_of(image, "filepath", str | None, origin)
        coco_id = field_of(image, "cocoid", int | str | None, origin)
        if coco_id == "":
            coco_id = None
        id = name if coco_id is None else str(coco_id)
        path = f"{folder}/{name}" if folder else name
        entries.append(Entry(origin, id, path, captions, image.get("split"), image_id=coco_id))
    return entries
