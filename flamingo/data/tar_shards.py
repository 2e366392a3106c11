"""Tar files in WebDataset's layout. Nothing is unpacked."""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flamingo.data.captions import captions_of
from flamingo.data.shards import Broken, Sample, Shards
from flamingo.utils.errors import UserError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def tar(files: Iterable[str | Path]) -> Shards:
    """``KEY.jpg`` (or ``jpeg``, ``png``, ``webp``) with ``KEY.json`` or ``KEY.txt``; an image's id is its KEY.

    A key ends at the first dot of the base name. The JSON has ``captions``, a list, or ``caption``;
    where it has neither, the text file is the caption. Members with other suffixes are let be.
    """
    return Shards(files, _samples, TarMember)


@dataclass(frozen=True)
class TarMember:
    """A picture in a tar file. Every reading opens the file anew, so that processes share no position."""

    file: str
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        with Path(self.file).open("rb") as stream:
            return _read(stream, self.offset, self.size)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


def _samples(file: str) -> Iterator[Sample | Broken]:
    try:
        with Path(file).open("rb") as stream:
            members, damage = _members(file, stream)
            for key, parts in _grouped(file, members).items():
                try:
                    yield Sample(key, _captions(stream, parts), _picture(parts))
                except (ValueError, RecursionError) as error:  # RecursionError: JSON that is nested too deeply
                    yield Broken(key, str(error))
            if damage:
                yield Broken(file, damage)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


#: A member's name, offset and size.
_Member = tuple[str, int, int]


def _members(file: str, stream: BinaryIO) -> tuple[list[_Member], str | None]:
    """All that are wholly there, and what is wrong with the file, if anything is."""
    start, size = stream.read(6), os.fstat(stream.fileno()).st_size
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(f"{file} is compressed ({name}), but pictures are read by seeking: make it a plain tar")
    stream.seek(0)
    members: list[_Member] = []
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 The stream is the caller's.
        while (member := archive.next()) and 0 <= member.size <= size - member.offset_data:
            archive.members.clear()  # type: ignore[attr-defined]  # Else it keeps them all.
            if member.isreg() and not member.issparse():
                members.append((member.name, member.offset_data, member.size))
        # At a header that is broken tarfile stops as it does at the end, which is a block of zeros.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
            return members, None
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if not members:
            raise UserError(f"{file} is no tar file: {error}") from error
    return members, f"it is cut off or damaged behind {members[-1][0] if members else 'its beginning'}"


def _grouped(file: str, members: Iterable[_Member]) -> dict[str, dict[str, _Member]]:
    """For each key its members by suffix."""
    samples: dict[str, dict[str, _Member]] = {}
    for member in members:
        folder, slash, base = member[0].rpartition("/")
        stem, _, suffix = base.partition(".")
        parts = samples.setdefault(folder + slash + (stem or base), {})
        if parts.setdefault(suffix.lower(), member) is not member:
            raise UserError(f"{file} has two members for one sample: {parts[suffix.lower()][0]} and {member[0]}")
    return samples


def _picture(parts: dict[str, _Member]) -> _Member:
    pictures = [member for suffix, member in parts.items() if suffix in _IMAGES]
    if len(pictures) != 1:
        names = ", ".join(name for name, _, _ in parts.values())
        raise UserError(f"{'several pictures' if pictures else 'no picture'} among {names}")
    return pictures[0]


def _captions(stream: BinaryIO, parts: dict[str, _Member]) -> tuple[str, ...]:
    described = json.loads(_read(stream, *parts["json"][1:])) if "json" in parts else {}
    if not isinstance(described, dict):
        raise UserError(f"its JSON is a {type(described).__name__}, not an object")
    there = [described[name] for name in ("captions", "caption") if described.get(name) is not None]
    if not there and "txt" in parts:
        there = [_read(stream, *parts["txt"][1:]).decode()]
    if len(there) != 1:
        raise UserError("its JSON has both captions and caption" if there else "there is no caption")
    return captions_of(there[0])


def _read(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    content = stream.read(size)
    if len(content) < size:
        raise OSError(f"the file ends within the member at {offset}")
    return content
