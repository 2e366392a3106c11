"""Tar files in WebDataset's layout. Members are read in place; nothing is unpacked."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flamingo.data.readers import Location
from flamingo.data.readers.shards import Broken, Sample, Shards
from flamingo.data.record import captions_of, split_named
from flamingo.utils.errors import UserError
from flamingo.utils.reading import parse_json, regular_file

_IMAGES = ("jpg", "jpeg", "png", "webp")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


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


@dataclass(frozen=True)
class TarMember:
    """A picture in a tar file. Each read opens the file, so that processes do not share a position in it."""

    file: str
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """Returns the bytes of the member.

        Raises:
            OSError: If the file cannot be read, or ends before the member does.
        """
        with regular_file(Path(self.file)).open("rb") as stream:
            return _read(stream, (self.name, self.offset, self.size))

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


def _samples(file: str) -> Iterator[Sample | Broken]:
    try:
        with regular_file(Path(file)).open("rb") as stream:
            members, damage = _members(file, stream)
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


#: A member's name, offset and size.
_Member = tuple[str, int, int]


def _members(file: str, stream: BinaryIO) -> tuple[list[_Member], str | None]:
    """Returns the complete members of all archives in the file, and the damage of the file, or None.

    Raises:
        UserError: If the file is compressed, or is not a tar file.
    """
    start = stream.read(6)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(f"{file} is compressed ({name}), but pictures are read by seeking: make it a plain tar")
    members: list[_Member] = []
    beginning: int | None = 0
    try:
        while beginning is not None:
            end = _archive(stream, beginning, members)
            beginning = _next_archive(stream, end)
        return members, None
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if not members:
            raise UserError(f"{file} is not a tar file: {error}") from error
    return members, f"it is cut off or damaged after {members[-1][0]}"


def _archive(stream: BinaryIO, beginning: int, members: list[_Member]) -> int:
    """Adds the members of the archive that begins at this offset to ``members``.

    Returns:
        The offset of the zeros that end the archive.

    Raises:
        ReadError: If a member or the end is missing.
    """
    size = os.fstat(stream.fileno()).st_size
    stream.seek(beginning)
    archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 The stream is the caller's.
    while (member := archive.next()) and 0 <= member.size <= size - member.offset_data:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
        if member.isreg() and not member.issparse():
            members.append((member.name, member.offset_data, member.size))
    # tarfile also stops at a broken header. The end of an archive is a block of zeros.
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut off or damaged")
    return archive.offset


def _next_archive(stream: BinaryIO, end: int) -> int | None:
    """Returns the offset of the first block after ``end`` that is not all zeros; None at the end of the file."""
    stream.seek(end)
    while block := stream.read(tarfile.BLOCKSIZE):
        if any(block):
            return stream.tell() - len(block)
    return None


def _grouped(file: str, members: Iterable[_Member]) -> dict[str, dict[str, _Member]]:
    """Returns the members of each key by suffix.

    Raises:
        UserError: If a key has two members with the same suffix.
    """
    samples: dict[str, dict[str, _Member]] = {}
    for member in members:
        folder, slash, base = member[0].rpartition("/")
        stem, _, suffix = base.partition(".")
        parts = samples.setdefault(folder + slash + (stem or base), {})
        extension = suffix.lower()
        if extension in parts:
            raise UserError(f"{file} has two members for one sample: {parts[extension][0]} and {member[0]}")
        parts[extension] = member
    return samples


def _picture(parts: dict[str, _Member]) -> _Member:
    pictures = [member for suffix, member in parts.items() if suffix in _IMAGES]
    if len(pictures) != 1:
        names = ", ".join(name for name, _, _ in parts.values())
        number = "several pictures" if pictures else "no picture"
        raise UserError(f"{number} among {names}")
    return pictures[0]


def _metadata(stream: BinaryIO, parts: dict[str, _Member]) -> dict[str, Any]:
    """Returns the content of a sample's JSON; empty if the sample has none.

    Raises:
        UserError: If the JSON is not an object.
    """
    if "json" not in parts:
        return {}
    metadata = parse_json(_read(stream, parts["json"]), "its metadata")
    if not isinstance(metadata, dict):
        raise UserError(f"its JSON is a {type(metadata).__name__}, not an object")
    return metadata


def _captions(stream: BinaryIO, parts: dict[str, _Member], metadata: dict[str, Any]) -> tuple[str, ...]:
    captions, caption = metadata.get("captions"), metadata.get("caption")
    if captions is not None and caption is not None:
        raise UserError("its JSON has both captions and caption")
    if captions is not None:
        return captions_of(captions)
    if caption is not None:
        return captions_of(caption)
    if "txt" in parts:
        return captions_of(_lines(_read(stream, parts["txt"])))
    return captions_of([])


def _lines(content: bytes) -> list[str]:
    """Returns the lines that are not blank. Unicode's other line separators are part of a caption.

    Raises:
        UserError: If the text is not UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"its text is not UTF-8: {error}") from error
    return [line for line in text.split("\n") if line.strip()]


def _read(stream: BinaryIO, member: _Member) -> bytes:
    _, offset, size = member
    stream.seek(offset)
    content = stream.read(size)
    if len(content) < size:
        raise OSError(f"the file ends within the member at {offset}")
    return content
