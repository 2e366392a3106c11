"""Tables of captions and paths or URLs of images: LAION's and COYO's Parquet files, CC3M's and CC12M's TSV."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate
from flamingo.data.readers.entries import Entry, check_entries
from flamingo.data.readers.line_places import line_at, line_places
from flamingo.data.readers.page_fields import decoded_text, shard_errors
from flamingo.data.readers.page_images import local_image, stored_image
from flamingo.data.readers.parquet_tables import group_places, opened_table, row_group
from flamingo.data.readers.text_files import IMAGES
from flamingo.data.records.record import LazySequence, Record, RecordList, captions_of
from flamingo.data.streams import Entry as Place
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError

#: The names of the columns, in lower case.
_URLS = ("url", "image_url", "image", "image_path", "path")
_CAPTIONS = ("caption", "text")


class TableRow(NamedTuple):
    """A row of a table. A null, and an empty cell, is None."""

    url: str | None
    caption: str | None


def caption_table(location: Location) -> LazySequence:
    """Returns the images of tables whose URLs are the paths of local files.

    Raises:
        UserError: If a file cannot be read, and as :func:`flamingo.data.readers.entries.check_entries`.
    """
    records: list[Record] = []
    skipped: dict[str, str] = {}
    for file in location.files:
        one = Location((file,), location.images, location.captions_only, location.skips_missing)
        read = check_entries(one, [_entry(file, place) for place in table_entries(file)])
        records += read.records
        skipped |= read.skipped
    return RecordList(records, skipped)


def is_caption_table(candidate: Candidate) -> bool:
    """Returns whether the file is a ``.tsv`` whose first line tells which columns have the URLs and the captions."""
    if candidate.path.suffix != ".tsv":
        return False
    columns, _ = _columns_of(candidate.first_line.split("\t"))
    return columns is not None


def table_entries(file: Path) -> list[Place]:
    """Returns the places of the rows of a ``.parquet`` or ``.tsv`` file.

    A TSV file without a header has two columns, in any order: the one without spaces in the first row has the URLs.

    Raises:
        UserError: If the file cannot be read, or its columns are not found.
    """
    if file.suffix == ".parquet":
        table = _opened(file)
        names = [_column(file, table.schema_arrow.names, known) for known in (_URLS, _CAPTIONS)]
        return [[names, *place] for place in group_places(table)]
    lines = line_places(file)
    if not lines:
        return []
    with shard_errors():
        first = _cells(line_at(file, lines[0]))
    columns, is_header = _columns_of(first)
    if columns is None:
        raise UserError(
            f"{file}: it is not clear which column has the URLs: add a first line with their names, url and caption"
        )
    rows = lines[1:] if is_header else lines
    return [[columns, *place] for place in rows]


def table_count(file: Path) -> int | None:
    """Returns the number of rows of a Parquet file, from its footer; None for other files.

    Raises:
        UserError: If the file cannot be read.
    """
    return _opened(file).metadata.num_rows if file.suffix == ".parquet" else None


def table_row(file: Path, place: Place) -> TableRow:
    """Returns the row at a place.

    Raises:
        UserError: If the row cannot be read, or a cell is not a text.
    """
    (url_column, caption_column), *rest = place
    if file.suffix == ".parquet":
        group, row, _ = rest
        values = _parquet_row(file, (url_column, caption_column), group, row)
        cells = [values[url_column], values[caption_column]]
    else:
        with shard_errors():
            line = _cells(line_at(file, rest))
        if len(line) <= max(url_column, caption_column):
            raise UserError(f"wrong number of cells: {len(line)} in line {rest[0]} of {file}")
        cells = [line[url_column], line[caption_column]]
    for cell in cells:
        if cell is not None and not isinstance(cell, str):
            raise UserError(f"a cell of another type: {cell!r:.80}")
    url, caption = cells
    return TableRow(url or None, caption or None)


def table_pair(file: Path, place: Place, images: Path | UrlStore | None) -> Record:
    """Returns the image and the caption of a row.

    Args:
        file: The table.
        place: The place of the row.
        images: The folder of the images, by default that of the table; or a store of them by their URLs.

    Raises:
        UserError: If the row is broken, has no caption, or its image is not there.
    """
    row = table_row(file, place)
    if row.url is None:
        raise UserError("there is no URL")
    captions = captions_of(row.caption or [])
    if isinstance(images, UrlStore):
        found = stored_image(row.url, row.url, images)
    else:
        folder = images or file.parent
        found = local_image(row.url, row.url, folder, folder)
    if found.image is None:
        raise UserError(f"{found.fault}: {row.url}")
    return Record(_id(file, place), found.image, captions, None)


def _entry(file: Path, place: Place) -> Entry:
    row = table_row(file, place)
    origin = f"{file}, row {place[-1] if file.suffix == '.parquet' else place[1]}"
    if row.url is None:
        raise UserError(f"{origin} has no URL")
    return Entry(origin, _id(file, place), row.url, [row.caption] if row.caption else [], None)


def _id(file: Path, place: Place) -> str:
    """Returns the id of a row: the number of the row of a Parquet file, or of the line of another."""
    return f"{file.stem}/{place[-1] if file.suffix == '.parquet' else place[1]}"


def _column(file: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    """Returns the first column with one of these names, which are sorted by precedence.

    Raises:
        UserError: If there is none.
    """
    for name in names:
        for column in columns:
            if column.lower() == name:
                return column
    raise UserError(f"{file} has no column {' or '.join(names)}; its columns are {', '.join(columns)}")


def _columns_of(first: list[str]) -> tuple[list[int] | None, bool]:
    """Returns the numbers of the columns of URLs and of captions, and whether the first line has their names.

    The numbers are None if they are not clear.
    """
    lowered = [cell.lower() for cell in first]
    named = [[lowered.index(name) for name in names if name in lowered] for names in (_URLS, _CAPTIONS)]
    if all(named):
        return [numbers[0] for numbers in named], True
    places = [number for number, cell in enumerate(first) if _is_place(cell)]
    if len(first) != 2 or len(places) != 1:
        return None, False
    return [places[0], 1 - places[0]], False


def _is_place(cell: str) -> bool:
    """Returns whether a cell is a URL or the path of an image."""
    is_url = "://" in cell and " " not in cell
    return is_url or cell.lower().endswith(IMAGES)


def _cells(line: bytes) -> list[str]:
    return decoded_text(line).strip("\r\n").split("\t")


def _opened(file: Path) -> Any:
    return _of_parquet(lambda: opened_table(str(file)), f"{file} cannot be read")


def _parquet_row(file: Path, columns: tuple[str, ...], group: int, row: int) -> dict[str, Any]:
    table = _of_parquet(lambda: row_group(str(file), columns, group), "the row cannot be read")
    return table.slice(row, 1).to_pylist()[0]


def _of_parquet(read: Callable[[], Any], fault: str) -> Any:
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UserError(f"{fault}: {error}") from error
