"""What decides a run's results: checksums of files, and how two descriptions of a run differ."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Bytes that are read of a large file at its beginning, middle and end.
_WINDOW = 1 << 16
#: Files of a model's folder that are too large to be read as a whole: the weights' values are compared elsewhere.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5")


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sampled_checksum(file: Path) -> str:
    """Return the SHA-256 of a file's size and of its first, middle and last 64 kB; no time counts.

    A change elsewhere that leaves the size as it is remains unseen.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        digest = hashlib.sha256(str(size).encode())
        for start in sorted({0, max(0, (size - _WINDOW) // 2), max(0, size - _WINDOW)}):
            stream.seek(start)
            digest.update(stream.read(_WINDOW))
    return digest.hexdigest()


def folder_checksums(folder: Path, whole_weights: bool = False) -> dict[str, str]:
    """Return a checksum for each file of a model's folder, but for its card.

    Args:
        folder: A folder that ``save_pretrained`` has left.
        whole_weights: Whether files of weights are read as a whole; else their :func:`sampled_checksum` is taken.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".md")
    sampled = () if whole_weights else _WEIGHTS
    return {path.name: (sampled_checksum if path.suffix in sampled else checksum)(path)[:16] for path in files}


def digest_of(parts: Iterable[str]) -> str:
    """Return a checksum of texts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()[:16]


def differences(earlier: dict[str, Any], now: dict[str, Any], may_change: tuple[str, ...] = ()) -> list[str]:
    """Return ``KEY was VALUE, is VALUE`` for each difference of two nested dictionaries, by its full key.

    Args:
        earlier: The one.
        now: The other.
        may_change: Keys that do not count, with all that is below them.
    """
    found = []
    for key, before, after in _differing(earlier, now, ""):
        if not any(key == name or key.startswith(f"{name}.") for name in may_change):
            found.append(f"{key} was {before!r}, is {after!r}")
    return found


def _differing(earlier: Any, now: Any, key: str) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in sorted({*earlier, *now}, key=str):
            below = f"{key}.{name}" if key else str(name)
            yield from _differing(earlier.get(name, "absent"), now.get(name, "absent"), below)
    elif _as_list(earlier) != _as_list(now):
        yield key, earlier, now


def _as_list(value: Any) -> Any:
    """YAML has no tuples."""
    return list(value) if isinstance(value, tuple) else value
