"""A file that may hold captions, as readers see it when they recognise its layout."""

from functools import cached_property
from pathlib import Path
from typing import Any

from flamingo.utils.errors import UserError
from flamingo.utils.reading import lines, parse_json, read_json


class Candidate:
    """A file whose content is read on first use, once for all readers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _is_json(self) -> bool:
        return self.path.name.endswith((".json", ".json.gz"))

    @cached_property
    def json(self) -> Any:
        """The content of a ``.json`` or ``.json.gz`` file; None for any other file.

        Raises:
            UserError: For a ``.json`` file that cannot be read.
        """
        return read_json(self.path) if self._is_json else None

    @cached_property
    def first_line(self) -> str:
        """The first line that is not blank; empty for a ``.json`` file, and for a file that is not text."""
        if self._is_json:
            return ""
        try:
            _, line = next(lines(self.path), ("", ""))
        except UserError:
            return ""
        return line

    @cached_property
    def first_row(self) -> Any:
        """The first line as JSON; None if it is not JSON."""
        try:
            return parse_json(self.first_line, str(self.path))
        except UserError:
            return None

    def first_element(self, key: str) -> Any:
        """Returns the first element of the list under ``key`` of a ``.json`` file; None if there is none."""
        elements = self.json.get(key) if isinstance(self.json, dict) else None
        return elements[0] if isinstance(elements, list) and elements else None


def has_field(value: Any, field: str) -> bool:
    """Returns whether a value is a JSON object with this field."""
    return isinstance(value, dict) and field in value
