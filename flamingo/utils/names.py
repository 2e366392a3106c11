"""Names of files and folders that are made of ids, tasks and settings, which may hold any characters."""

import hashlib
import re
from pathlib import Path

#: The longest name; file systems allow 255 bytes, of which endings take some.
_LONGEST = 240


def file_name(text: str) -> str:
    """Return a name for a file or folder that any file system can hold, and a command line as it is.

    A text of ASCII letters, digits, ``_``, ``.``, ``+`` and ``-`` is its own name, unless it begins with a dot or is
    too long. In any other text the characters that are not among these become ``_``, and a digest of the text is
    added, so that two texts never share a name.
    """
    safe = re.sub(r"^\.|[^A-Za-z0-9_.+-]", "_", text)
    if safe == text and 0 < len(safe) <= _LONGEST:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[: _LONGEST - 9]}-{digest}"


def picture_path(folder: Path, task: str, id: str) -> Path:
    """Return where an evaluation keeps the picture of a query or demonstration of a task."""
    return folder / file_name(task) / f"{file_name(id)}.png"
