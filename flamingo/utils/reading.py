"""Reads text files: lines, rows of JSON lines and CSV, JSON; what cannot be read is a UserError that names its origin.

The origin is the file and the line. Files that end in ``.gz`` are decompressed.
"""

import csv
import gzip
import json
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml

from flamingo.utils.errors import UserError

#: Kinds of files other than regular ones.
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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


def complete_lines(path: Path) -> list[bytes]:
    """The lines of a file that is appended to, without a last one that a kill has cut off; none if it is missing."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return lines


def complete_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file that is appended to, each with its origin, without a last one that a kill has cut off.

    There are none if the file is missing.
    """
    for number, line in enumerate(complete_lines(path), start=1):
        origin = f"{path}, line {number}"
        yield origin, json_object(line, origin)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file."""
    with _opened(file) as stream:
        return parse_json(stream.read(), str(file))


def read_config(path: Path) -> dict[str, Any]:
    """Returns the config that a run or an evaluation has recorded.

    Raises:
        UserError: For a file that holds no mapping of YAML.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a config: {config!r:.80}")
    return config


def parse_json(text: str | bytes, origin: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        UserError: With ``origin``, for a text that is no JSON, or is nested too deeply for Python's parser.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is no JSON: {error}") from error


def json_object(text: str | bytes, origin: str) -> dict[str, Any]:
    """A JSON object. Raises UserError, with ``origin``, for anything else."""
    value = parse_json(text, origin)
    if not isinstance(value, dict):
        raise UserError(f"{origin} is no JSON object: {text[:80]!r}")
    return value


def regular_file(path: Path) -> Path:
    """Returns ``path`` if it names a regular file, or a link to one. Opening a named pipe would block forever.

    Raises:
        OSError: If it names something else, or nothing.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a regular file")
    return path


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    opened: Any = gzip.open if file.suffix == ".gz" else Path.open
    try:
        with opened(regular_file(file), "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:  # the last two: gzip's, cut off or damaged
        raise UserError(f"{file} cannot be read: {error}") from error
