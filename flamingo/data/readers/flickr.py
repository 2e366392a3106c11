"""Flickr8k and Flickr30k as they are distributed, with their known flaws."""

import logging
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from flamingo.data.record import Entry
from flamingo.data.rows import cells, lines
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

#: Flickr8k.token.txt has five captions of an image that was never distributed.
_NEVER_THERE = "2258277193_586949ec62.jpg.1"
#: One row of Flickr30k's results.csv lacks a delimiter before its caption: this is its image and its number. Tables
#: made of that file have an empty caption in this row.
_UNDELIMITED = "2199200615.jpg", "4   A dog runs across the grass ."
_TOKEN = re.compile(r"([^\t]+)#(\d+)\t(.*)")


def flickr(file: Path) -> list[Entry]:
    """Read Flickr8k's ``Flickr8k.token.txt`` or ``captions.txt``, or Flickr30k's ``results_20130124.token``,
    ``results.csv`` or ``captions.txt``.

    The ids are the images' file names. Splits are those of ``Flickr_8k.trainImages.txt``, ``devImages`` and
    ``testImages`` in the same folder; an image that is in none has no split.
    """
    captions: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for where, name, number, caption in _rows(file):
        if number is not None and seen.setdefault(f"{name}#{number}", where) != where:
            raise UserError(f"{where}: caption {number} of {name} is there already, at {seen[f'{name}#{number}']}")
        captions.setdefault(name, []).append(caption)
    if captions.pop(_NEVER_THERE, None):
        log.warning("%s: the captions of %s are left out; there never was such an image", file, _NEVER_THERE)
    splits = _splits(file.parent, captions)
    return [Entry(f"{file}, image {name}", name, name, of, splits.get(name)) for name, of in captions.items()]


def flickr_kind(line: str) -> Literal["csv", "numbered csv", "bars", "token"] | None:
    """Return how a file is written that begins with this line; None if it is not Flickr's."""
    header = line.replace(" ", "").strip()
    if header == "image,caption":
        return "csv"
    if header == "image_name,comment_number,comment":
        return "numbered csv"
    if header == "image_name|comment_number|comment":
        return "bars"
    return "token" if _TOKEN.match(line) else None


def _rows(file: Path) -> Iterator[tuple[str, str, str | None, str]]:
    """Each caption's place, image, number (in a CSV file it has none) and text."""
    _, first = next(lines(file), ("", ""))
    match flickr_kind(first):
        case "csv":
            for where, row in islice(cells(file), 1, None):
                if len(row) != 2:
                    raise UserError(f"{where} is not IMAGE,CAPTION: {row}")
                yield where, row[0].strip(), None, row[1]
        case "numbered csv":
            for where, row in islice(cells(file), 1, None):
                yield where, *_numbered(row, where)
        case "bars":
            for where, line in islice(lines(file), 1, None):
                yield where, *_numbered(line.split("|", 2), where)
        case "token":
            for where, line in lines(file):
                if not (found := _TOKEN.fullmatch(line)):
                    raise UserError(f"{where} is not IMAGE#NUMBER<tab>CAPTION: {line!r}")
                yield where, found[1], found[2], found[3]
        case None:
            raise UserError(f"{file} begins as none of Flickr's files does: {first!r}")


def _numbered(row: list[str], where: str) -> tuple[str, str, str]:
    """The image, the number and the caption of a row."""
    cells = [cell.strip() for cell in row]
    if tuple(cells[:2]) == _UNDELIMITED and not any(cells[2:]):
        cells = [cells[0], *cells[1].split(maxsplit=1)]
    if len(cells) != 3 or not cells[1].isdecimal():
        raise UserError(f"{where} is not IMAGE, NUMBER, CAPTION: {row}")
    return cells[0], cells[1], cells[2]


def _splits(folder: Path, known: Collection[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        file = folder / f"Flickr_8k.{split}Images.txt"
        for where, line in lines(file) if file.exists() else ():
            name = line.strip()
            if name not in known:
                raise UserError(f"{where}: the image {name!r} has no captions")
            if splits.setdefault(name, split) != split:
                raise UserError(f"{where}: the image {name!r} is of the split {splits[name]}, too")
    return splits
