"""Tar files in WebDataset's layout. Members are read in place; nothing is unpacked."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flamingo.data.document import Image
from flamingo.data.readers import Location
from flamingo.data.readers.shards import Broken, Sample, Shards
from flamingo.data.readers.tar_members import Member, TarMember, members_of, read_member, tar_members
from flamingo.data.records.record import Record, captions_of, split_named
from flamingo.data.streams import Entry
from flamingo.utils.errors import UserError
from flamingo.utils.reading import json_object, parse_json, regular_file

log = logging.getLogger(__name__)

#: The suffixes of pictures.
PICTURES = ("jpg", "jpeg", "png", "webp")


def tar(location: Location) -> Shards:
    """Returns the images ``KEY.jpg`` (or ``jpeg``, ``png``, ``webp``) with ``KEY.json`` or ``KEY.txt``.

    An image's id is its KEY, which ends at the first dot of the base name. The JSON has a list ``captions``, or
    ``caption``, and may have ``split``, which takes precedence over the file's name. If it has no caption, each line of
    the text file is one (CLIP_benchmark's layout). Members with other suffixes are ignored. A file may contain several
    archives in a row.

    Raises:
        UserError: If a file cannot be read, or is compressed.
    """
    return Shards(location.files, _samples, TarMember)


def tar_entries(file: Path) -> list[Entry]:
    """Returns the keys of a shard, each with its members by suffix. No member is read.

    Raises:
        UserError: If the file cannot be read, or is compressed.
    """
    members, damage = members_of(file)
    if damage:
        log.warning("%s: %s", file, damage)
    return [[key, parts] for key, parts in _grouped(str(file), members).items()]


def tar_pair(file: Path, entry: Entry, images: Path | None) -> Record:
    """Returns the image and the captions of a key: see :func:`tar`.

    Raises:
        UserError: For a sample that is not complete.
    """
    key, parts = entry
    members = {suffix: (name, offset, size) for suffix, (name, offset, size) in parts.items()}
    try:
        with regular_file(file).open("rb") as stream:
            metadata = _metadata(stream, members)
            captions = _captions(stream, members, metadata)
    except OSError as error:
        raise UserError(f"a shard cannot be read: {file}: {error}") from error
    image = Image(TarMember(str(file), *_picture(members)))
    return Record(key, image, captions, split_named(metadata.get("split")))


def tar_count(file: Path) -> int | None:
    """Returns the number of samples that img2dataset has written next to a shard; None if there is none.

    Raises:
        UserError: If the file with the number is damaged.
    """
    stats = file.with_name(f"{file.name.partition('.')[0]}_stats.json")
    if not stats.exists():
        return None
    number = json_object(stats.read_bytes(), str(stats)).get("successes")
    if type(number) is not int or number < 0:
        raise UserError(f"{stats}: successes is {number!r}, not a number of samples")
    return number


def _samples(file: str) -> Iterator[Sample | Broken]:
    try:
        with regular_file(Path(file)).open("rb") as stream:
            members, damage = tar_members(file, stream)
            for key, parts in _grouped(file, members).items():
                try:
                    metadata = _metadata(stream, parts)
                    captions = _captions(stream, parts, metadata)
                    yield Sample(key, captions, _picture(parts), split_named(metadata.get("split")))
                except UserError as error:
                    yield Broken(key, str(error))
            if damage:
                yield Broken(file, damage)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _grouped(file: str, members: Iterable[Member]) -> dict[str, dict[str, Member]]:
    """Returns the members of each key by suffix.

    Raises:
        UserError: If a key has two members with the same suffix.
    """
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        folder, slash, base = member[0].rpartition("/")
        stem, _, suffix = base.partition(".")
        parts = samples.setdefault(folder + slash + (stem or base), {})
        extension = suffix.lower()
        if extension in parts:
            raise UserError(f"{file} has two members for one sample: {parts[extension][0]} and {member[0]}")
        parts[extension] = member
    return samples


def _picture(parts: dict[str, Member]) -> Member:
    pictures = [member for suffix, member in parts.items() if suffix in PICTURES]
    if len(pictures) != 1:
        names = ", ".join(name for name, _, _ in parts.values())
        number = "several pictures" if pictures else "no picture"
        raise UserError(f"{number}: among {names}")
    return pictures[0]


def _metadata(stream: BinaryIO, parts: dict[str, Member]) -> dict[str, Any]:
    """Returns the content of a sample's JSON; empty if the sample has none.

    Raises:
        UserError: If the JSON is not an object.
    """
    if "json" not in parts:
        return {}
    metadata = parse_json(read_member(stream, parts["json"]), "its metadata")
    if not isinstance(metadata, dict):
        raise UserError(f"its JSON is a {type(metadata).__name__}, not an object")
    return metadata


def _captions(stream: BinaryIO, parts: dict[str, Member], metadata: dict[str, Any]) -> tuple[str, ...]:
    captions = captions_of_metadata(metadata)
    if captions is not None:
        return captions
    if "txt" in parts:
        return captions_of(text_lines(read_member(stream, parts["txt"])))
    return captions_of([])


def captions_of_metadata(metadata: dict[str, Any]) -> tuple[str, ...] | None:
    """Returns the captions of a sample's JSON; None if it has none.

    Raises:
        UserError: If they cannot be used.
    """
    captions, caption = metadata.get("captions"), metadata.get("caption")
    if captions is not None and caption is not None:
        raise UserError("its JSON has both captions and caption")
    if captions is not None:
        return captions_of(captions)
    if caption is not None:
        return captions_of(caption)
    return None


def text_lines(content: bytes) -> list[str]:
    """Returns the lines that are not blank. Unicode's other line separators are part of a caption.

    Raises:
        UserError: If the text is not UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"its text is not UTF-8: {error}") from error
    return [line for line in text.split("\n") if line.strip()]
