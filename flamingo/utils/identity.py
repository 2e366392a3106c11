"""Checksums: what is the same, wherever it lies and whenever it was written."""

import hashlib
from pathlib import Path


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
