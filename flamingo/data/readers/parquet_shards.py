"""Parquet files with embedded images, as the hub, ``datasets`` and polars write them. Needs pyarrow."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.columns import Columns, image_bytes
from flamingo.data.readers.parquet_tables import opened_table, row_group
from flamingo.data.readers.shards import Broken, Sample, Shards
from flamingo.utils.errors import UserError


def parquet(location: Location) -> Shards:
    """Returns the images of rows with ``image`` and ``captions``, ``caption`` or ``text``.

    ``image`` is bytes, or a struct of ``bytes`` and ``path``. If there is no such column, the only struct with
    ``bytes`` is used. Captions may also have a column each: ``caption_0``, ``caption_1``, ... An image's id is in the
    column ``id``, by default ``STEM/ROW`` of the file. A column ``split`` takes precedence over the file's name.

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
