"""The members of a tar file: their places, and their bytes. Nothing is unpacked."""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flamingo.utils.errors import UserError
from flamingo.utils.reading import regular_file

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

#: A member's name, offset and size.
Member = tuple[str, int, int]


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
            return read_member(stream, (self.name, self.offset, self.size))

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


def key_of(name: str) -> tuple[str, str]:
    """Returns the key of a member, up to the first dot of its base name, with its folder; and the rest of its name."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, rest = base.partition(".")
    return folder + slash + key, rest


def members_of(file: Path) -> tuple[list[Member], str | None]:
    """Returns the complete members of a file, and its damage, or None.

    Raises:
        UserError: If the file cannot be read, is compressed, or is not a tar file.
    """
    try:
        with regular_file(file).open("rb") as stream:
            return tar_members(str(file), stream)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def tar_members(file: str, stream: BinaryIO) -> tuple[list[Member], str | None]:
    """Returns the complete members of all archives in the file, and the damage of the file, or None.

    Raises:
        UserError: If the file is compressed, or is not a tar file.
    """
    start = stream.read(6)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(f"{file} is compressed ({name}), but pictures are read by seeking: make it a plain tar")
    members: list[Member] = []
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


def _archive(stream: BinaryIO, beginning: int, members: list[Member]) -> int:
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


def read_member(stream: BinaryIO, member: Member) -> bytes:
    """Returns the bytes of a member.

    Raises:
        OSError: If the file ends before the member does.
    """
    _, offset, size = member
    stream.seek(offset)
    content = stream.read(size)
    if len(content) < size:
        raise OSError(f"the file ends within the member at {offset}")
    return content
