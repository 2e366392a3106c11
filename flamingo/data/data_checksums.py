"""Checksums of a data set, which do not depend on where its files lie or when they were written."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flamingo.data.document import Frame
from flamingo.data.records.record import Record
from flamingo.utils.checksums import digest_of, sampled_checksum
from flamingo.utils.reading import regular_file


def data_checksums(images: Sequence[Record]) -> dict[str, str]:
    """Returns two checksums of captioned images, ``captions`` and ``files``.

    Returns:
        ``captions``: the checksum of ids, captions, splits and picture names. ``files``: the checksum of the names and
        :func:`sampled_checksum` of the pictures' files, or of the shards that hold them.
    """
    files: dict[str, None] = {}
    captions = digest_of(_rows(images, files))
    return {"captions": captions, "files": files_checksum(files)}


def files_checksum(files: Iterable[str]) -> str:
    """Returns the checksum of the names and :func:`sampled_checksum` of files."""
    with ThreadPoolExecutor() as pool:  # reading and hashing take most of the time, and release Python's lock
        return digest_of(pool.map(_described, files))


def _rows(images: Sequence[Record], files: dict[str, None]) -> Iterator[str]:
    """Yields a text for each record, and adds the files of its frames to ``files``."""
    for record in images:
        frames = []
        for frame in record.frames:
            file = _file(frame)
            files[file] = None
            frames.append(str(frame).replace(file, Path(file).name))
        yield json.dumps([record.id, record.texts, record.split, frames])


def _file(frame: Frame) -> str:
    """Returns the file that a frame is read from: a picture's own, or a shard."""
    return str(getattr(frame, "file", frame))


def _described(file: str) -> str:
    return f"{Path(file).name} {sampled_checksum(regular_file(Path(file)))}"
