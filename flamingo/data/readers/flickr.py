"""Flickr8k and Flickr30k as they are distributed, with their known flaws."""

import logging
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate
from flamingo.data.readers.entries import Entry, check_entries
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import cells, lines

log = logging.getLogger(__name__)

#: Flickr8k.token.txt has five captions of an image that was never distributed.
_NEVER_THERE = "2258277193_586949ec62.jpg.1"
#: The image and the number of the row of Flickr30k's results.csv that lacks a delimiter before its caption. Tables
#: made from that file have an empty caption in this row.
_UNDELIMITED = "2199200615.jpg", "4   A dog runs across the grass ."
_TOKEN = re.compile(r"([^\t]+)#(\d+)\t(.*)")


def flickr(location: Location) -> LazySequence:
    """Returns the images of Flickr8k or Flickr30k.

    The file is Flickr8k's ``Flickr8k.token.txt`` or ``captions.txt``, or Flickr30k's ``results_20130124.token``,
    ``results.csv`` or ``captions.txt``. The ids are the images' file names. Splits are those of
    ``Flickr_8k.trainImages.txt``, ``devImages`` and ``testImages`` in the same folder; an image in none of them has no
    split.

    Raises:
        UserError: For a malformed file, by its line, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    return check_entries(location, _entries(location.files[0]))


def _entries(file: Path) -> list[Entry]:
    captions: dict[str, list[str]] = {}
    origins: dict[tuple[str, str], str] = {}
    for origin, name, number, caption in _rows(file):
        if number is not None:
            if (name, number) in origins:
                earlier = origins[name, number]
                raise UserError(f"{origin} repeats caption {number} of {name} of {earlier}")
            origins[name, number] = origin
        captions.setdefault(name, []).append(caption)
    if captions.pop(_NEVER_THERE, None):
        log.warning("%s: the captions of %s are left out: the image was never distributed", file, _NEVER_THERE)
    splits = _splits(file.parent, captions)
    entries = []
    for name, captions_of_image in captions.items():
        entries.append(Entry(f"{file}, image {name}", name, name, captions_of_image, splits.get(name)))
    return entries


def is_flickr(candidate: Candidate) -> bool:
    """Returns whether the file begins like one of Flickr's files."""
    return _kind(candidate.first_line) is not None


def _kind(line: str) -> Literal["csv", "numbered csv", "bars", "token"] | None:
    """Returns the layout of a file that begins with this line; None if the file is not Flickr's."""
    header = line.replace(" ", "").strip()
    if header == "image,caption":
        return "csv"
    if header == "image_name,comment_number,comment":
        return "numbered csv"
    if header == "image_name|comment_number|comment":
        return "bars"
    return "token" if _TOKEN.match(line) else None


def _rows(file: Path) -> Iterator[tuple[str, str, str | None, str]]:
    """Yields each caption's origin, image, number (None in a CSV file without numbers) and text.

    Raises:
        UserError: For a malformed line.
    """
    _, first = next(lines(file), ("", ""))
    match _kind(first):
        case "csv":
            for origin, row in islice(cells(file), 1, None):
                if len(row) != 2:
                    raise UserError(f"{origin} is not IMAGE,CAPTION: {row}")
                yield origin, row[0].strip(), None, row[1]
        case "numbered csv":
            for origin, row in islice(cells(file), 1, None):
                name, number, caption = _numbered(row, origin)
                yield origin, name, number, caption
        case "bars":
            for origin, line in islice(lines(file), 1, None):
                name, number, caption = _numbered(line.split("|", 2), origin)
                yield origin, name, number, caption
        case "token":
            for origin, line in lines(file):
                fields = _TOKEN.fullmatch(line)
                if fields is None:
                    raise UserError(f"{origin} is not IMAGE#NUMBER<tab>CAPTION: {line!r}")
                yield origin, fields[1], fields[2], fields[3]
        case None:
            raise UserError(f"{file} does not begin like one of Flickr's files: {first!r}")


def _numbered(row: list[str], origin: str) -> tuple[str, str, str]:
    """Returns the image, the number and the caption of a row.

    Raises:
        UserError: For a malformed row.
    """
    cells = [cell.strip() for cell in row]
    if tuple(cells[:2]) == _UNDELIMITED and not any(cells[2:]):
        number, caption = cells[1].split(maxsplit=1)
        cells = [cells[0], number, caption]
    if len(cells) != 3 or not cells[1].isdecimal():
        raise UserError(f"{origin} is not IMAGE, NUMBER, CAPTION: {row}")
    return cells[0], cells[1], cells[2]


def _splits(folder: Path, known: Collection[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        file = folder / f"Flickr_8k.{split}Images.txt"
        if not file.exists():
            continue
        for origin, line in lines(file):
            name = line.strip()
            if name not in known:
                raise UserError(f"{origin}: the image {name!r} has no captions")
            if splits.get(name, split) != split:
                raise UserError(f"{origin}: the image {name!r} is also in the split {splits[name]}")
            splits[name] = split
    return splits
