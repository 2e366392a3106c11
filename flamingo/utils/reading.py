"""Reads text files: lines, rows of JSON lines and CSV, JSON. An unreadable file is a UserError that names its origin.

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
    """Yields ``("FILE, line NUMBER", line)`` for each line that is not blank.

    Raises:
        UserError: If the file cannot be read.
    """
    with _opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{file}, line {number}", line.strip("\r\n")


def rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a JSONL file, or of a CSV file with a header, each with its origin.

    Raises:
        UserError: If the file cannot be read, or a row is malformed.
    """
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
    """Yields the rows of a CSV file, each with its origin. Blank lines are skipped.

    Raises:
        UserError: If the file cannot be read, or is not CSV.
    """
    with _opened(file) as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for row in filter(None, reader):
                yield f"{file}, line {reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num} is not CSV: {error}") from error


def complete_lines(path: Path) -> list[bytes]:
    """Returns the lines of a file that is appended to, without a last line that a kill has cut off.

    A missing file has no lines.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return lines


def complete_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a JSONL file that is appended to, without a last row that a kill has cut off.

    Each row has its origin. A missing file has no rows.

    Raises:
        UserError: If a complete line is not a JSON object.
    """
    for number, line in enumerate(complete_lines(path), start=1):
        origin = f"{path}, line {number}"
        yield origin, json_object(line, origin)


def read_json(file: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        UserError: If the file cannot be read, or is not JSON.
    """
    with _opened(file) as stream:
        return parse_json(stream.read(), str(file))


def read_config(path: Path) -> dict[str, Any]:
    """Returns the config that a run or an evaluation has recorded.

    Raises:
        UserError: If the file is not a YAML mapping.
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

    Args:
        text: The text.
        origin: The file, and the line if any, for errors.

    Raises:
        UserError: If the text is not JSON, or is nested too deeply for Python's parser.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not JSON: {error}") from error


def json_object(text: str | bytes, origin: str) -> dict[str, Any]:
    """Returns the object of a JSON text.

    Args:
        text: The text.
        origin: The file, and the line if any, for errors.

    Raises:
        UserError: If the text is not a JSON object.
    """
    value = parse_json(text, origin)
    if not isinstance(value, dict):
        raise UserError(f"{origin} is not a JSON object: {text[:80]!r}")
    return value


def regular_file(path: Path) -> Path:
    """Returns ``path`` if it names a regular file or a link to one. Opening a named pipe would block forever.

    Raises:
        OSError: If the path names something else, or nothing.
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
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:  # the last two: of a damaged gzip file
        raise UserError(f"{file} cannot be read: {error}") from error
