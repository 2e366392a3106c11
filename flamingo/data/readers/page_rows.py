"""One's own pages as JSON lines, with images and texts in reading order."""

from pathlib import Path
from typing import Any

from flamingo.data.pages.page import Page, PagePart
from flamingo.data.readers.line_places import LinePlace, line_at, line_places
from flamingo.data.readers.page_fields import page_field, page_list, page_text, shard_errors
from flamingo.data.readers.page_images import local_image, stored_image
from flamingo.data.records.record import split_named
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object

_FIELDS = {"id", "content", "split"}


def page_row_entries(file: Path) -> list[LinePlace]:
    """Returns the places of the pages of a ``.jsonl``.

    Raises:
        UserError: If the file cannot be read.
    """
    return line_places(file)


def page_row(file: Path, entry: LinePlace, images: Path | UrlStore | None) -> Page:
    """Returns the page of a row ``{"id": ID, "content": [...]}``; ``"split"`` is optional.

    An element of ``content`` is ``{"type": "image", "image": PATH}`` or ``{"type": "text", "text": "..."}``.

    Args:
        file: The shard.
        entry: The place of the page.
        images: The folder that paths are relative to, by default that of the file; or a store of the images, by URLs in
            place of paths.

    Raises:
        UserError: If the row is broken.
    """
    with shard_errors():
        row = json_object(line_at(file, entry), "the page")
    unknown = row.keys() - _FIELDS
    if unknown:
        raise UserError(f"unknown field: {min(unknown)!r:.80}; known are {', '.join(sorted(_FIELDS))}")
    id = page_text(page_field(row, "id", str)) if "id" in row else f"{file.stem}/{entry[0]}"
    parts = [_part(part, file, images) for part in page_list(row, "content", dict)]
    return Page(id, tuple(parts), split_named(row.get("split")))


def _part(part: dict[str, Any], file: Path, images: Path | UrlStore | None) -> PagePart:
    match part:
        case {"type": "text", "text": str(text), **others} if not others:
            return page_text(text)
        case {"type": "image", "image": str(name), **others} if not others:
            page_text(name)
            if isinstance(images, UrlStore):
                return stored_image(name, name, images)
            folder = images or file.parent
            return local_image(name, name, folder, folder)
    raise UserError(f"wrong part of the content: {part!r:.80}")
