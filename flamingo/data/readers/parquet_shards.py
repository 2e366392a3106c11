"""Parquet files with embedded images, as ``datasets`` and polars write them. Needs pyarrow."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flamingo.data.readers import Location
from flamingo.data.readers.shards import Broken, Sample, Shards
from flamingo.data.record import captions_of, split_named
from flamingo.utils.errors import UserError
from flamingo.utils.reading import regular_file


def parquet(location: Location) -> Shards:
    """Rows with ``image``, bytes or a struct of ``bytes`` and ``path``, and ``captions``, ``caption`` or ``text``.

    An image's id is in the column ``id``, by default ``STEM/ROW`` of the file. A column ``split`` wins over the file's
    name. Opening a picture reads its whole row group, of which the last four are kept: in a random order that is slow
    where row groups are large. Raises ImportError where pyarrow is missing.
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
    return _opened(file).read_row_group(group, columns=[column], use_threads=False).column(0)


def _opened(file: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("parquet shards need the package pyarrow: pip install pyarrow") from error
    return pyarrow.parquet.ParquetFile(regular_file(Path(file)))


def _samples(file: str) -> Iterator[Sample | Broken]:
    try:
        table = _opened(file)
        schema = table.schema_arrow
        picture, captions, number = _image_column(schema), _caption_column(schema), 0
        columns = [captions]
        columns += [name for name in ("id", "split") if name in schema.names]
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=columns, use_threads=False).to_pylist()
            for row, record in enumerate(rows):
                id = record.get("id")
                id = f"{Path(file).stem}/{number}" if id is None else str(id)
                number += 1
                try:
                    split = split_named(record.get("split"))
                    yield Sample(id, captions_of(record[captions]), (picture, group, row), split)
                except UserError as error:
                    yield Broken(id, str(error))
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # pyarrow's are of many kinds
        raise UserError(f"{file} cannot be read: {error}") from error


def _image_column(schema: Any) -> str:
    """The name by which ``read_row_group`` finds the bytes."""
    kind: Any = schema.field("image").type if "image" in schema.names else "no such column"
    if _is_bytes(kind):
        return "image"
    fields = list(kind) if str(kind).startswith("struct<") else []
    if any(field.name == "bytes" and _is_bytes(field.type) for field in fields):
        return "image.bytes"
    raise UserError(f"the column image must be bytes, or a struct with bytes; it is: {kind}")


def _is_bytes(kind: Any) -> bool:
    """Whether this type of Arrow holds bytes: Arrow has three, and dictionaries of them."""
    held = kind.value_type if str(kind).startswith("dictionary<") else kind
    return str(held) in ("binary", "large_binary", "binary_view")


def _caption_column(schema: Any) -> str:
    columns = [name for name in ("captions", "caption", "text") if name in schema.names]
    if len(columns) != 1:
        raise UserError(f"one column must be captions, caption or text; there are {', '.join(schema.names)}")
    return columns[0]
