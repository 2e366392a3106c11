"""Names that users choose -> texts that tables of Markdown and spreadsheets show unchanged."""

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

#: Characters that Markdown interprets. It does not interpret an underscore within a word.
_ACTIVE = re.compile(r"[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
#: The beginnings of cells that spreadsheets interpret as formulas.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def markdown(value: Any) -> Markup:
    """Returns a value as plain text of Markdown, for a line or a cell of a table.

    ``Markup``, such as the result of :func:`code`, is unchanged.
    """
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_ACTIVE.sub(lambda found: f"\\{found[0]}", text))


def row(cells: Iterable[Any]) -> Markup:
    """Returns a row of a table of Markdown."""
    return Markup(f"| {' | '.join(map(markdown, cells))} |")


def code(value: Any) -> Markup:
    """Returns a value as a span of code in Markdown, whatever backticks it has. It does not fit into a table."""
    text = " ".join(str(value).split())
    fence = _fence(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def code_block(text: str, language: str = "") -> str:
    """Returns a text of several lines as a block of code in Markdown, whatever fences it has."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def csv_cell(value: Any) -> Any:
    """Returns a value that no spreadsheet interprets as a formula. Numbers are unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _fence(text: str, least: int) -> str:
    """Returns more consecutive backticks than the text has."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
