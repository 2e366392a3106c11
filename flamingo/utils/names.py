"""File names for ids, tasks and settings, which may contain any characters."""

import hashlib
import re
from pathlib import Path

#: The longest name in characters. File systems allow 255 bytes, with the suffix.
_LONGEST = 240
#: The longest name in a progress bar.
_SHORT = 40


def file_name(text: str) -> str:
    """Returns a file name for a text. Every file system accepts it, and shells need no quotes.

    A text of ASCII letters, digits, ``_``, ``.``, ``+`` and ``-`` is its own name, unless it begins with a dot or is
    too long. In any other text the other characters become ``_``, and a digest of the text is appended, so that two
    texts never share a name.
    """
    safe = re.sub(r"^\.|[^A-Za-z0-9_.+-]", "_", text)
    if safe == text and 0 < len(safe) <= _LONGEST:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[: _LONGEST - 9]}-{digest}"


def short_name(folder: Path) -> str:
    """Returns the name of a run's folder for a progress bar: of a long one the end, where runs of a sweep differ."""
    name = folder.resolve().name
    return name if len(name) <= _SHORT else f"\N{HORIZONTAL ELLIPSIS}{name[1 - _SHORT :]}"


def picture_path(folder: Path, task: str, id: str) -> Path:
    """Returns the path of the saved picture of a query or demonstration of a task."""
    return folder / file_name(task) / f"{file_name(id)}.png"
