"""M4's tar files of captioned images, ``ID.image.jpeg`` and ``ID.text.txt``.

A shard that :mod:`flamingo.data.pages.m4_writer` has written has a file more, ``ID.pair.json``, with the id and the
split.
"""

import re
from pathlib import Path

from flamingo.data.document import Image
from flamingo.data.readers.keyed_members import KeyedPlace, keyed_entries
from flamingo.data.readers.page_fields import (
    checked_place,
    decoded_text,
    page_field,
    page_text,
    shard_errors,
)
from flamingo.data.readers.tar_members import TarMember, key_of
from flamingo.data.records.record import Record, captions_of, split_named
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object

#: A larger text is not read, in bytes.
LARGEST_TEXT = 1 << 20
_IMAGE = re.compile(r"image\.[^.]+")


def m4_pair_entries(file: Path) -> list[KeyedPlace | str]:
    """Returns the places of the pairs of a tar file. Members with other names are ignored.

    Raises:
        UserError: If the file cannot be read, or is compressed.
    """
    return keyed_entries(file, _is_part)


def _is_part(name: str) -> bool:
    return name in ("text.txt", "pair.json") or _IMAGE.fullmatch(name) is not None


def m4_pair(file: Path, entry: KeyedPlace | str, images: Path | UrlStore | None) -> Record:
    """Returns the captioned image at a place. Each line of the text is a caption.

    Args:
        file: The shard.
        entry: The place of the pair.
        images: None: the images are in the shard.

    Raises:
        UserError: If the pair is broken.
    """
    key, members = checked_place(entry)
    parts: dict[str, TarMember] = {}
    for name, offset, size in members:
        _, rest = key_of(name)
        kind = "image" if _IMAGE.fullmatch(rest) else rest
        if kind in parts:
            raise UserError(f"two members of one kind: {name}")
        parts[kind] = TarMember(str(file), name, offset, size)
    if "image" not in parts or "text.txt" not in parts:
        raise UserError("incomplete pair: it needs an image and a text")
    with shard_errors():
        text = _text(parts["text.txt"])
        additions = json_object(_text(parts["pair.json"]), "pair.json") if "pair.json" in parts else {}
    id = page_text(page_field(additions, "id", str)) if additions else key
    captions = captions_of([line for line in text.split("\n") if line.strip()])
    return Record(id, Image(parts["image"]), captions, split_named(additions.get("split")))


def _text(member: TarMember) -> str:
    if member.size > LARGEST_TEXT:
        raise UserError(f"text too large: it has {member.size:,} bytes, more than {LARGEST_TEXT:,}")
    return decoded_text(member.read_bytes())
