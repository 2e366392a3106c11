"""Parquet files with embedded images, as ``datasets`` writes them. Needs pyarrow."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flamingo.data.captions import captions_of
from flamingo.data.shards import Broken, Sample, Shards
from flamingo.utils.errors import UserError


def parquet(files: Iterable[str | Path]) -> Shards:
    """Rows with ``image``, bytes or a struct of ``bytes`` and ``path``, and ``captions``, ``caption`` or ``text``.

    An image's id is in the column ``id``, or else it is ``STEM/ROW`` of the file. Opening a picture
    reads its whole row group, of which the last four are kept: in a random order that is slow where row
    groups are large. Raises ImportError where pyarrow is missing.
    """
    return Shards(files, _samples, ParquetCell)


@dataclass(frozen=True)
class ParquetCell:
    """A picture in a row of a parquet file; ``row`` counts within the row group."""

    file: str
    column: str
    group: int
    row: int

    def read_bytes(self) -> bytes:
        value = _row_group(self.file, self.column, self.group)[self.row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise UserError("there are no bytes in its row")
        return content

    def __str__(self) -> str:
        return f"{self.file}, row {self.row} of row group {self.group}"


@lru_cache(maxsize=4)
def _row_group(file: str, column: str, group: int) -> Any:
    # Without threads, which do not live on in forked workers.
    return _pyarrow_parquet().ParquetFile(file).read_row_group(group, columns=[column], use_threads=False).column(0)


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("parquet shards need the package pyarrow: pip install pyarrow") from error
    return pyarrow.parquet


def _samples(file: str) -> Iterator[Sample | Broken]:
    reader = _pyarrow_parquet().ParquetFile
    try:
        table = reader(file)
        picture, captions, number = _image_column(table.schema_arrow), _caption_column(table.schema_arrow), 0
        wanted = [captions] + ["id"] * ("id" in table.schema_arrow.names)
        for group in range(table.num_row_groups):
            for row, record in enumerate(table.read_row_group(group, columns=wanted, use_threads=False).to_pylist()):
                id = str(record.get("id", f"{Path(file).stem}/{number}"))
                number += 1
                try:
                    yield Sample(id, captions_of(record[captions]), (picture, group, row))
                except ValueError as error:
                    yield Broken(id, str(error))
    except Exception as error:  # pyarrow's are of many kinds.
        raise UserError(f"{file} cannot be read: {error}") from error


def _image_column(schema: Any) -> str:
    """As ``read_row_group`` names what holds the bytes."""
    kind = str(schema.field("image").type) if "image" in schema.names else "no such column"
    if kind.startswith("struct<") and "bytes: binary" in kind:
        return "image.bytes"
    if kind not in ("binary", "large_binary"):
        raise UserError(f"the column image must be bytes, or a struct with bytes; it is: {kind}")
    return "image"


def _caption_column(schema: Any) -> str:
    there = [name for name in ("captions", "caption", "text") if name in schema.names]
    if len(there) != 1:
        raise UserError(f"one column must be captions, caption or text; there are {', '.join(schema.names)}")
    return there[0]
