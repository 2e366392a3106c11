"""Parquet files with embedded images, as the hub, ``datasets`` and polars write them. Needs pyarrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flamingo.data.document import Image
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.readers import Location
from flamingo.data.readers.columns import Columns, image_bytes
from flamingo.data.readers.parquet_tables import group_places, opened_table, row_group
from flamingo.data.readers.shards import Broken, Sample, Shards
from flamingo.data.readers.tar_shards import tar_count
from flamingo.data.records.record import Record
from flamingo.data.streams import Entry
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError


def parquet(location: Location) -> Shards:
    """Returns the images of rows with ``image`` and ``captions``, ``caption`` or ``text``.

    ``image`` is bytes, or a struct of ``bytes`` and ``path``. If there is no such column, the only struct with
    ``bytes`` is used, or the bytes ``jpg``, ``png`` or ``webp`` of img2dataset. Captions may also have a column each:
    ``caption_0``, ``caption_1``, ... An image's id is in the column ``id``, or img2dataset's ``key``, by default
    ``STEM/ROW`` of the file. A column ``split`` takes precedence over the file's name.

    Opening a picture reads its whole row group, and the last four row groups stay in memory. Random access is therefore
    slow if row groups are large.

    Raises:
        UserError: If a file cannot be read, or pyarrow is missing.
    """
    return Shards(location.files, _samples, ParquetCell)


@dataclass(frozen=True)
class ParquetCell:
    """A picture in a row of a parquet file; ``row`` counts within the row group."""

    file: str
    column: str
    group: int
    row: int

    def read_bytes(self) -> bytes:
        """Returns the bytes of the picture's file."""
        return image_bytes(row_group(self.file, (self.column,), self.group).column(0)[self.row].as_py())

    def __str__(self) -> str:
        return f"{self.file}, row {self.row} of row group {self.group}"


def parquet_entries(file: Path) -> list[Entry]:
    """Returns the places of the rows of a file, without those of failed downloads.

    Raises:
        UserError: If the file cannot be read, or pyarrow is missing.
    """
    with _table_errors(file):
        table = opened_table(str(file))
        columns = Columns(table.schema_arrow)
        places = group_places(table)
        if not columns.may_lack_pictures:
            return places
        statuses = table.read(columns=["status"], use_threads=False).to_pylist()
        return [place for place, row in zip(places, statuses, strict=True) if columns.has_picture(row)]


def parquet_count(file: Path) -> int | None:
    """Returns the number of rows of a file, from its footer, or from img2dataset's stats next to it.

    None if some of them may lack pictures and there are no stats.

    Raises:
        UserError: If the file cannot be read, or pyarrow is missing.
    """
    with _table_errors(file):
        table = opened_table(str(file))
        if Columns(table.schema_arrow).may_lack_pictures:
            return tar_count(file)
        return table.metadata.num_rows


def parquet_pair(file: Path, entry: Entry, images: Path | UrlStore | None) -> Record:
    """Returns the image and the captions of a row: see :func:`parquet`. The picture is in memory.

    Args:
        file: The shard.
        entry: The place of the row.
        images: Not used: the images are in the shard.

    Raises:
        UserError: For a row without a picture or a caption.
    """
    group, row, number = entry
    with _table_errors(file):
        columns = Columns(_schema(str(file)))
        table = row_group(str(file), (*columns.texts, columns.image_bytes), group)
        values = table.slice(row, 1).to_pylist()[0]
        content = image_bytes(values[columns.image])
    sample = columns.sample(values, f"{file.stem}/{number}", ())
    if isinstance(sample, Broken):
        raise UserError(sample.reason)
    picture = EmbeddedPicture(f"{file}, row {number}", content)
    return Record(sample.id, Image(picture), sample.captions, sample.split)


@lru_cache(maxsize=64)
def _schema(file: str) -> Any:
    return opened_table(file).schema_arrow


@contextmanager
def _table_errors(file: Path) -> Iterator[None]:
    """Turns exceptions of pyarrow, which are of many types, into errors that name the file.

    Raises:
        MemoryError: Unchanged.
        UserError: For any other exception.
    """
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as error:
        raise UserError(f"the file cannot be read: {file}: {error}") from error


def _samples(file: str) -> Iterator[Sample | Broken]:
    try:
        table = opened_table(file)
        columns = Columns(table.schema_arrow)
        number = 0
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=columns.texts, use_threads=False).to_pylist()
            for row, values in enumerate(rows):
                location = (columns.image_bytes, group, row)
                yield columns.sample(values, f"{Path(file).stem}/{number}", location)
                number += 1
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UserError(f"{file} cannot be read: {error}") from error
