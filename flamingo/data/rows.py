"""Text files -> lines, cells and rows, each with its origin; what cannot be read is a UserError that names it.

Files that end in ``.gz`` are decompressed.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from flamingo.utils.errors import UserError
from flamingo.utils.io import json_object, parse_json, regular_file


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """``("FILE, line NUMBER", line)`` for all lines that are not blank."""
    with _opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{file}, line {number}", line.strip("\r\n")


def rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file, or of a CSV file that begins with a header, each with its origin."""
    if file.suffix == ".csv":
        csv_rows = cells(file)
        _, header = next(csv_rows, ("", []))
        for origin, row in csv_rows:
            if len(row) != len(header):
                raise UserError(f"{origin} has {len(row)} cells, but the header has {len(header)}")
            yield origin, dict(zip(header, row, strict=True))
        return
    for origin, line in lines(file):
        yield origin, json_object(line, origin)


def cells(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV file, each with its origin; blank lines are none."""
    with _opened(file) as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for row in filter(None, reader):
                yield f"{file}, line {reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num} is no CSV: {error}") from error


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    opened: Any = gzip.open if file.suffix == ".gz" else Path.open
    try:
        with opened(regular_file(file), "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:  # the last two: gzip's, cut off or damaged
        raise UserError(f"{file} cannot be read: {error}") from error


def read_json(file: Path) -> Any:
    """Return the content of a JSON file."""
    with _opened(file) as stream:
        return parse_json(stream.read(), str(file))
