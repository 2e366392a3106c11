"""The lines of a file, also of one in a zip archive, by their places: a line is read when it is needed."""

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from flamingo.utils.errors import UserError
from flamingo.utils.reading import regular_file

#: A longer line is not read, in bytes. The longest of MMC4 has some 2 MB.
LONGEST_LINE = 16 << 20
#: A larger file in a zip archive is not read, in bytes. A shard of MMC4 has some 50 MB.
LARGEST_FILE = 1 << 30
_PIECE = 1 << 20

#: A line's number, counted from 1, its offset and its size in bytes.
LinePlace = Sequence[int]


def line_places(file: Path) -> list[LinePlace]:
    """Returns the places of the lines that are not blank. The memory does not depend on the lengths of the lines.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        with _opened(file) as stream:
            return list(_places(stream))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def line_at(file: Path, place: LinePlace) -> bytes:
    """Returns a line.

    Raises:
        OSError: If the file cannot be read.
        UserError: If the line is too long.
    """
    _, offset, size = place
    if size > LONGEST_LINE:
        raise UserError(f"line too long: it has {size:,} bytes, more than {LONGEST_LINE:,}")
    with _opened(file) as stream:
        stream.seek(offset)
        return stream.read(size)


def _places(stream: io.BufferedIOBase) -> Iterator[LinePlace]:
    number, offset = 1, 0
    size, is_blank = 0, True
    while piece := stream.readline(_PIECE):
        size += len(piece)
        is_blank = is_blank and piece.isspace()
        if piece.endswith(b"\n"):
            if not is_blank:
                yield [number, offset, size]
            number, offset = number + 1, offset + size
            size, is_blank = 0, True
    if not is_blank:
        yield [number, offset, size]


def _opened(file: Path) -> io.BufferedIOBase:
    if file.suffix == ".zip":
        return io.BytesIO(_unzipped(str(file)))
    return regular_file(file).open("rb")


@lru_cache(maxsize=2)
def _unzipped(file: str) -> bytes:
    """Returns the first file of an archive, as OpenFlamingo reads MMC4. The last two stay in memory.

    Raises:
        UserError: If it is damaged, or too large.
    """
    try:
        with zipfile.ZipFile(regular_file(Path(file))) as archive, archive.open(archive.namelist()[0]) as stream:
            content = stream.read(LARGEST_FILE + 1)
    # What zipfile raises for files that are damaged, empty, encrypted, or compressed in an unknown way.
    except (zipfile.BadZipFile, zlib.error, EOFError, IndexError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{file} is not a zip archive of JSON lines: {error}") from error
    if len(content) > LARGEST_FILE:
        raise UserError(f"{file} has a file of more than {LARGEST_FILE:,} bytes: unzip it")
    return content
