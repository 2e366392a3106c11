"""OpenFlamingo's tar files of pages: MMC4 and ChatGPT sequences, with images in base64."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.readers.mmc4 import page_of_document
from flamingo.data.readers.page_fields import (
    base64_image,
    checked_place,
    damaged,
    page_field,
    page_text,
    shard_errors,
)
from flamingo.data.readers.tar_members import Member, members_of, read_member
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object, regular_file

#: A larger JSON is not read, in bytes.
LARGEST_JSON = 256 << 20
_MARKER = re.compile(r"(_!_IMAGE\d+_!_)")


def openflamingo_entries(file: Path) -> list[Member | str]:
    """Returns the places of the pages of a tar file, its members ``KEY.json``.

    Raises:
        UserError: If the file cannot be read, or is compressed.
    """
    members, damage = members_of(file)
    return damaged([member for member in members if member[0].endswith(".json")], damage)


def openflamingo_page(file: Path, entry: Sequence[Any] | str, images: Path | UrlStore | None) -> Page:
    """Returns the page at a place: one of MMC4, or a ChatGPT sequence, whose images have their places among the texts.

    Args:
        file: The shard.
        entry: The place of the page.
        images: None: the images are in the shard.

    Raises:
        UserError: If the page is broken.
    """
    name, offset, size = checked_place(entry)
    if size > LARGEST_JSON:
        raise UserError(f"JSON too large: it has {size:,} bytes, more than {LARGEST_JSON:,}")
    with shard_errors(), regular_file(file).open("rb") as stream:
        document = json_object(read_member(stream, (name, offset, size)), "the page")
    id = name.removesuffix(".json")
    if "is_gpt" in document:
        return Page(id, tuple(_sequence(document, f"{file}:{name}")))
    return page_of_document(document, id, lambda info: _image(info, f"{file}:{name}"))


def _image(info: dict[str, Any], origin: str) -> PageImage:
    name = page_field(info, "image_name", str)
    return base64_image(name, info.get("image_base64"), f"{origin}, {name}")


def _sequence(document: dict[str, Any], origin: str) -> list[PagePart]:
    example = page_text(page_field(document, "example", str))
    pictures = page_field(document, "image_map", dict)
    parts: list[PagePart] = []
    for piece in filter(None, _MARKER.split(example)):
        if not _MARKER.fullmatch(piece):
            parts.append(piece)
            continue
        picture = pictures.get(piece)
        if not isinstance(picture, dict):
            raise UserError(f"wrong field image_map: it has no image {piece}")
        parts.append(base64_image(piece, picture.get("base64_image"), f"{origin}, {piece}"))
    return parts
