"""MINT-1T's PDF and ArXiv parts: tar files of ``KEY.json`` and ``KEY.tiff``. The frames are the images of a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flamingo.data.document import Image
from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.readers.page_fields import (
    checked_place,
    damaged,
    page_list,
    page_text,
    shard_errors,
)
from flamingo.data.readers.tar_members import Member, TarMember, members_of, read_member
from flamingo.data.readers.tiff_frames import TiffFrame, num_frames
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object, regular_file

#: A larger JSON is not read, in bytes.
LARGEST_JSON = 64 << 20
_NONE = type(None)

#: The name, offset and size of the members ``json`` and ``tiff`` of a page, each None if there is none.
PageMembers = Sequence[Any]


def mint1t_entries(file: Path) -> list[PageMembers | str]:
    """Returns the places of the pages of a tar file. Members with other suffixes are ignored.

    Raises:
        UserError: If the file cannot be read, or is compressed.
    """
    members, damage = members_of(file)
    jsons: dict[str, Member] = {}
    tiffs: dict[str, Member] = {}
    for member in members:
        key, _, suffix = member[0].rpartition(".")
        if suffix == "json":
            jsons[key] = member
        elif suffix in ("tiff", "tif"):
            tiffs[key] = member
    keys = dict.fromkeys([*jsons, *tiffs])
    return damaged([[jsons.get(key), tiffs.get(key)] for key in keys], damage)


def mint1t_page(file: Path, entry: PageMembers | str, images: Path | UrlStore | None) -> Page:
    """Returns the page at a place. The i-th image that the JSON names is frame i of the TIFF.

    Args:
        file: The shard.
        entry: The place of the page.
        images: None: the images are in the shard.

    Raises:
        UserError: If the page is broken, or the TIFF has another number of frames than the JSON has images.
    """
    json_member, tiff_member = checked_place(entry)
    if json_member is None:
        raise UserError("incomplete page: it has no JSON")
    name, offset, size = json_member
    if size > LARGEST_JSON:
        raise UserError(f"JSON too large: it has {size:,} bytes, more than {LARGEST_JSON:,}")
    with shard_errors():
        with regular_file(file).open("rb") as stream:
            document = json_object(read_member(stream, (name, offset, size)), "the page")
        frames = None if tiff_member is None else _frames(TarMember(str(file), *tiff_member))
    return Page(name.removesuffix(".json"), tuple(_parts(document, frames)))


def _frames(tiff: TarMember) -> list[TiffFrame]:
    return [TiffFrame(tiff, frame) for frame in range(num_frames(tiff))]


def _parts(document: dict[str, Any], frames: list[TiffFrame] | None) -> list[PagePart]:
    """Returns the parts of a page.

    Raises:
        UserError: If lists do not fit each other, or the frames.
    """
    names = page_list(document, "images", (str, _NONE))
    texts = page_list(document, "texts", (str, _NONE))
    num_images = len(names) - names.count(None)
    if len(names) != len(texts):
        raise UserError(f"lists of other lengths: {len(names)} images and {len(texts)} texts")
    if frames is not None and len(frames) != num_images:
        raise UserError(f"frames do not fit the images: {len(frames)} frames and {num_images} images")
    pictures = iter(frames or [])
    parts: list[PagePart] = []
    for place, (name, text) in enumerate(zip(names, texts, strict=True)):
        if name is not None and text is not None:
            raise UserError(f"an image and a text in one place: place {place}")
        if text is not None:
            parts.append(page_text(text))
        elif name is not None:
            parts.append(_image(page_text(name), next(pictures, None)))
    return parts


def _image(name: str, frame: TiffFrame | None) -> PageImage:
    if frame is None:
        return PageImage(name, None, fault="image missing")
    return PageImage(name, Image(frame))
