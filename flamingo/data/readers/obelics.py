"""OBELICS, and MINT-1T's HTML: Parquet files with lists of images and texts. Needs pyarrow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flamingo.data.document import Image
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.readers.page_fields import page_text, sections
from flamingo.data.readers.page_images import stored_image
from flamingo.data.readers.parquet_tables import group_places, opened_table, row_group
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError

_COLUMNS = ("images", "texts")

#: A page's row group, its row in the group, and its row in the file.
RowPlace = Sequence[int]


def obelics_entries(file: Path) -> Sequence[RowPlace]:
    """Returns the places of the pages of a Parquet file with the columns ``images`` and ``texts``.

    Raises:
        UserError: If the file cannot be read, or lacks a column.
    """
    table = _table(file)
    names = table.schema_arrow.names
    for column in _COLUMNS:
        if column not in names:
            raise UserError(f"{file} has no column {column}; its columns are {', '.join(names)}")
    return group_places(table)


def obelics_count(file: Path) -> int:
    """Returns the number of pages of a file, from its footer.

    Raises:
        UserError: If the file cannot be read.
    """
    return _table(file).metadata.num_rows


def obelics_page(file: Path, entry: RowPlace, images: Path | UrlStore | None) -> Page:
    """Returns the page at a place. At each place of the two lists there is an image or a text.

    An image is a URL, whose picture is in the store, or embedded: bytes, or a struct of ``bytes`` and ``path``.

    Args:
        file: The shard.
        entry: The place of the page.
        images: A store of the images by their URLs; None: only embedded images have pictures.

    Raises:
        UserError: If the page is broken, or images are a folder.
    """
    if isinstance(images, Path):
        raise UserError(f"no store of URLs: {images} is a folder, but images are named by their URLs")
    group, row, number = entry
    id = f"{file.stem}/{number}"
    cells, texts = _row(file, group, row)
    if len(cells) != len(texts):
        raise UserError(f"lists of other lengths: {len(cells)} images and {len(texts)} texts")
    parts: list[PagePart] = []
    for place, (cell, text) in enumerate(zip(map(_without_nulls, cells), texts, strict=True)):
        if cell is not None and text is not None:
            raise UserError(f"an image and a text in one place: place {place}")
        if text is not None:
            parts += sections(page_text(text))
        elif cell is not None:
            parts.append(_image(cell, f"{file}, page {number}, image {place}", images))
    return Page(id, tuple(parts))


def _table(file: Path) -> Any:
    try:
        return opened_table(str(file))
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UserError(f"{file} cannot be read: {error}") from error


def _row(file: Path, group: int, row: int) -> tuple[list[Any], list[Any]]:
    """Returns the images and the texts of a row.

    Raises:
        MemoryError: If the row group does not fit into memory.
        UserError: If the row cannot be read, or lacks a list.
    """
    try:
        table = row_group(str(file), _COLUMNS, group)
        values = table.slice(row, 1).to_pylist()[0]
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UserError(f"the row cannot be read: {error}") from error
    for column in _COLUMNS:
        if not isinstance(values[column], list):
            raise UserError(f"wrong column {column}: it must be a list, got {values[column]!r:.80}")
    return values["images"], values["texts"]


def _without_nulls(cell: Any) -> Any:
    """Returns None for a struct of nulls, which some versions of ``datasets`` write where there is a text."""
    if isinstance(cell, dict) and not any(cell.values()):
        return None
    return cell


def _image(cell: Any, origin: str, store: UrlStore | None) -> PageImage:
    if isinstance(cell, str):
        return stored_image(cell, cell, store)
    content, name = cell, origin
    if isinstance(cell, dict):
        content, name = cell.get("bytes"), cell.get("path") or origin
    if content is None:
        return PageImage(name, None, fault="image missing")
    if not isinstance(content, bytes):
        raise UserError(f"wrong column images: an image must be a URL or bytes, got {content!r:.80}")
    return PageImage(name, Image(EmbeddedPicture(origin, content)), len(content))
