"""Checksums of files and texts."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

#: Bytes of a large file that are read at its beginning, middle and end.
_WINDOW = 1 << 16
#: Suffixes of weights, which are too large to be read completely.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5")


def checksum(file: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sampled_checksum(file: Path) -> str:
    """Returns the SHA-256 of a file's size and of its first, middle and last 64 kB.

    A change of other bytes is not detected unless it changes the size.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        digest = hashlib.sha256(str(size).encode())
        for start in sorted({0, max(0, (size - _WINDOW) // 2), max(0, size - _WINDOW)}):
            stream.seek(start)
            digest.update(stream.read(_WINDOW))
    return digest.hexdigest()


def folder_checksums(folder: Path, whole_weights: bool = False) -> dict[str, str]:
    """Returns a checksum for each file of a model's folder except its card, by file name.

    Args:
        folder: A folder that ``save_pretrained`` has written.
        whole_weights: Whether files of weights are read completely; otherwise they are sampled.
    """
    checksums = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix == ".md":
            continue
        is_sampled = path.suffix in _WEIGHTS and not whole_weights
        digest = sampled_checksum(path) if is_sampled else checksum(path)
        checksums[path.name] = digest[:16]
    return checksums


def digest_of(parts: Iterable[str]) -> str:
    """Returns the first 16 hex digits of the SHA-256 of a sequence of texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()[:16]
