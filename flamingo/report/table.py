"""A table of a page: cells with the values that a reader sorts by, and their ranks."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

#: The kinds of columns: numbers stand on the right; texts have a least width.
NUMBER, SHORT, MEDIUM, LONG = "number", "short", "medium", "long"
#: The text of a cell without a value.
NO_VALUE = "\N{EN DASH}"
#: A table of more rows can be filtered.
_FEW_ROWS = 8


@dataclass(frozen=True)
class Column:
    """The head of a column, and the kind of its cells."""

    name: str
    kind: str = NUMBER


@dataclass(frozen=True)
class Cell:
    """A text, the interval of its number (empty: none), and the number."""

    text: str
    interval: str = ""
    #: None: the text has no number.
    value: float | int | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class Row:
    """The cells of a row, one for each column."""

    cells: tuple[Cell, ...]
    #: Whether the row is of a control.
    is_control: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under the heads of their columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    #: An explanation for the reader.
    note: str = ""

    @property
    def has_filter(self) -> bool:
        """Whether there are so many rows that a reader filters them."""
        return len(self.rows) > _FEW_ROWS

    def ranks(self) -> list[list[int | None]]:
        """Returns the place of each cell in the order of its column, row by row; None for a cell without a value.

        Numbers are sorted by value. Texts are sorted by their letters without case, and by the numbers in them. Equal
        cells have equal ranks.
        """
        of_columns = []
        for number, column in enumerate(self.columns):
            cells = [row.cells[number] for row in self.rows]
            keys = [cell.value if column.kind == NUMBER else _text_key(cell.text) for cell in cells]
            of_columns.append(_ranks(keys))
        return [list(of_row) for of_row in zip(*of_columns, strict=True)]


def _text_key(text: str) -> tuple[Any, ...] | None:
    """Returns the text as letters and whole numbers in turn; None for a text without a value."""
    if text in ("", NO_VALUE):
        return None
    parts = re.split(r"(\d+)", text.casefold())
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts))


def _ranks(keys: Sequence[Any]) -> list[int | None]:
    ordered = sorted({key for key in keys if key is not None})
    rank_of: dict[Hashable, int] = {key: rank for rank, key in enumerate(ordered)}
    return [rank_of.get(key) for key in keys]
