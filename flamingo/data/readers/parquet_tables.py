"""The row groups of Parquet files. Needs pyarrow."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from flamingo.data.readers.columns import pyarrow_module
from flamingo.utils.reading import regular_file


def opened_table(file: str) -> Any:
    """Returns the ``ParquetFile`` of a file: its schema, and its row groups to read.

    Raises:
        UserError: If pyarrow is not installed.
        Exception: If the file cannot be read. pyarrow raises exceptions of many types.
    """
    return pyarrow_module("pyarrow.parquet").ParquetFile(regular_file(Path(file)))


@lru_cache(maxsize=4)
def row_group(file: str, columns: tuple[str, ...], group: int) -> Any:
    """Returns the table of a row group. The last four stay in memory.

    Args:
        file: The file.
        columns: The columns to read.
        group: The number of the row group.
    """
    # Threads would not survive in forked workers.
    return opened_table(file).read_row_group(group, columns=list(columns), use_threads=False)


def group_places(table: Any) -> list[list[int]]:
    """Returns for each row of a ``ParquetFile`` its row group, its number in the group, and its number in the file."""
    places: list[list[int]] = []
    for group in range(table.num_row_groups):
        first = len(places)
        for row in range(table.metadata.row_group(group).num_rows):
            places.append([group, row, first + row])
    return places
