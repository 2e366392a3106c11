"""M4's tar files of pages, as IDEFICS was trained on: ``ID.N.image.jpeg``, ``ID.N.text.txt`` and ``ID.metadata.txt``.

``ID.metadata.txt`` names the other files of the page, one a line. A shard that
:mod:`flamingo.data.pages.m4_writer` has written has a file more, ``ID.page.json``, of what M4 does not store: the id
and the split of the page, names of images, images without a picture, and images whose place is not known. M4 skips it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from flamingo.data.document import Image
from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.readers.keyed_members import KeyedPlace, keyed_entries
from flamingo.data.readers.page_fields import (
    checked_place,
    decoded_text,
    page_field,
    page_list,
    page_matrix,
    page_text,
    sections,
    shard_errors,
)
from flamingo.data.readers.tar_members import Member, TarMember, key_of, read_member
from flamingo.data.records.record import split_named
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object, regular_file

#: A larger text, list of files or JSON is not read, in bytes.
LARGEST_TEXT = 16 << 20
_PART = re.compile(r"(?P<place>\d+)\.(?P<kind>text|image)\.[^.]+")


def m4_entries(file: Path) -> list[KeyedPlace | str]:
    """Returns the places of the pages of a tar file. Members with other names are ignored.

    Raises:
        UserError: If the file cannot be read, or is compressed.
    """
    return keyed_entries(file, _is_part)


def _is_part(name: str) -> bool:
    return name in ("metadata.txt", "page.json") or _PART.fullmatch(name) is not None


def m4_page(file: Path, entry: KeyedPlace | str, images: Path | UrlStore | None) -> Page:
    """Returns the page at a place. Texts are divided where sections of the page end.

    Args:
        file: The shard.
        entry: The place of the page.
        images: None: the images are in the shard.

    Raises:
        UserError: If the page is broken, or lacks a file that ``ID.metadata.txt`` names.
    """
    key, members = checked_place(entry)
    with shard_errors(), regular_file(file).open("rb") as stream:
        parts = _members_by_name(members)
        _check_complete(stream, parts)
        additions = _additions(stream, parts.pop("page.json", None))
        return _page(stream, file, key, parts, additions)


@dataclass(frozen=True)
class _Additions:
    """The content of ``ID.page.json``."""

    id: str | None = None
    split: str | None = None
    #: Place -> the name of the image, and why it has no picture.
    images: dict[int, tuple[str, str]] = field(default_factory=dict)
    #: The places of images that are not among the texts.
    unplaced: tuple[int, ...] = ()
    #: The whole JSON, with the similarities of unplaced images.
    values: dict[str, Any] = field(default_factory=dict)


def _members_by_name(members: Sequence[Sequence[Any]]) -> dict[str, Member]:
    parts: dict[str, Member] = {}
    for name, offset, size in members:
        _, rest = key_of(name)
        if rest in parts:
            raise UserError(f"two members of one name: {name}")
        parts[rest] = (name, offset, size)
    return parts


def _check_complete(stream: BinaryIO, parts: dict[str, Member]) -> None:
    """Removes ``metadata.txt`` from the parts, and checks that the other files are there.

    Raises:
        UserError: If a file is missing.
    """
    metadata = parts.pop("metadata.txt", None)
    if metadata is None:
        raise UserError("incomplete page: it has no metadata.txt")
    names = {Path(name).name for name, _, _ in parts.values()}
    listed = _text(stream, metadata)
    for name in listed.split("\n"):
        if listed and name not in names:
            raise UserError(f"incomplete page: {name!r:.80} is missing")


def _text(stream: BinaryIO, member: Member) -> str:
    _, _, size = member
    if size > LARGEST_TEXT:
        raise UserError(f"text too large: it has {size:,} bytes, more than {LARGEST_TEXT:,}")
    return decoded_text(read_member(stream, member))


def _additions(stream: BinaryIO, member: Member | None) -> _Additions:
    if member is None:
        return _Additions()
    values = json_object(_text(stream, member), "page.json")
    images: dict[int, tuple[str, str]] = {}
    for place, image in enumerate(page_list(values, "images", (dict, type(None)))):
        if image is not None:
            images[place] = (page_field(image, "name", str), page_field(image, "fault", str))
    return _Additions(
        page_text(page_field(values, "id", str)),
        split_named(values.get("split")),
        images,
        tuple(page_list(values, "unplaced", int)),
        values,
    )


def _page(stream: BinaryIO, file: Path, key: str, members: dict[str, Member], additions: _Additions) -> Page:
    texts: dict[int, str] = {}
    images: dict[int, PageImage] = {}
    for place, (name, fault) in additions.images.items():
        images[place] = PageImage(name, None, fault=fault)
    for rest, member in members.items():
        match = _PART.fullmatch(rest)
        assert match is not None
        place = int(match["place"])
        if place in texts or (place in images and images[place].image is not None):
            raise UserError(f"two parts at one place: {member[0]}")
        if match["kind"] == "text":
            texts[place] = _text(stream, member)
        else:
            name, _ = additions.images.get(place, (Path(member[0]).name, ""))
            images[place] = PageImage(name, Image(TarMember(str(file), *member)), member[2])
    parts: list[PagePart] = []
    for place in sorted(texts.keys() | images.keys()):
        if place in texts:
            parts += sections(texts[place])
        elif place not in additions.unplaced:
            parts.append(images[place])
    return _with_unplaced(additions, key, tuple(parts), images)


def _with_unplaced(additions: _Additions, key: str, parts: tuple[PagePart, ...], images: dict[int, PageImage]) -> Page:
    """Returns the page with the images whose place among the texts is not known.

    Raises:
        UserError: If such an image is missing, or has no similarities.
    """
    if not all(place in images for place in additions.unplaced):
        raise UserError("wrong page.json: an image without a place is missing")
    page = Page(additions.id or key, parts, additions.split)
    if not additions.unplaced:
        return page
    unplaced = tuple(images[place] for place in additions.unplaced)
    similarity = page_matrix(additions.values, "similarity", len(unplaced), len(page.texts))
    return Page(page.id, parts, page.split, unplaced, similarity)
