"""Names that people choose -> texts that tables of Markdown and spreadsheets show as they are."""

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

#: What Markdown or HTML in it would act on; an underscore within a word is plain text to both.
_ACTIVE = re.compile(r"[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
#: What a cell begins with that spreadsheets take for a formula.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def markdown(value: Any) -> Markup:
    """Return a value as text of Markdown that means nothing else, in a line and in a cell of a table.

    What is ``Markup`` already, such as the result of :func:`code`, stays as it is.
    """
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_ACTIVE.sub(lambda found: f"\\{found[0]}", text))


def row(cells: Iterable[Any]) -> Markup:
    """Return a row of a table of Markdown."""
    return Markup(f"| {' | '.join(map(markdown, cells))} |")


def code(value: Any) -> Markup:
    """Return a value as a span of code in Markdown, whatever backticks it has; not for a cell of a table."""
    text = " ".join(str(value).split())
    fence = _fence(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def code_block(text: str, language: str = "") -> str:
    """Return a text of several lines as a block of code in Markdown, whatever fences it has."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def csv_cell(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _fence(text: str, least: int) -> str:
    """More backticks in a row than the text has."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
