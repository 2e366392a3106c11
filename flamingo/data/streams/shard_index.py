"""The index of a shard: where its samples lie. It is made when the shard is first opened, and kept in a file."""

import json
import logging
import mmap
from functools import cache as cached
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from flamingo.data.streams import SHARD_FORMATS, Entry
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file
from flamingo.utils.kinds import import_name
from flamingo.utils.reading import json_object, regular_file

log = logging.getLogger(__name__)

_SUFFIX = ".index"
#: The bytes of the header, a JSON object and blanks.
_HEADER = 256


class ShardIndex:
    """The places of the samples of a shard, each parsed when it is asked for.

    The file has a header, the end of each text, and a JSON text for each sample. It is mapped into memory, so that
    processes share it.
    """

    def __init__(self, content: bytes | mmap.mmap, num_samples: int) -> None:
        self._content = content
        self._ends = np.frombuffer(content, np.uint64, num_samples, _HEADER)
        self._texts = _HEADER + 8 * num_samples

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Entry:
        start = int(self._ends[number - 1]) if number > 0 else 0
        return json.loads(self._content[self._texts + start : self._texts + int(self._ends[number])])


def cache_folder(shard: Path, cache: Path | None) -> Path:
    """Returns the folder of what is kept of a shard: that of the shard, or one in the cache for each folder."""
    if cache is None:
        return shard.parent
    return cache / blake2b(str(shard.parent.absolute()).encode(), digest_size=8).hexdigest()


def index_file(shard: Path, cache: Path | None) -> Path:
    """Returns the file of a shard's index."""
    return cache_folder(shard, cache) / f"{shard.name}{_SUFFIX}"


def open_index(shard: Path, format: str, cache: Path | None) -> ShardIndex:
    """Returns the index of a shard. It is made if there is none, or if the shard has changed since.

    Args:
        shard: The shard.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        cache: The folder of indexes; None: beside the shards.

    Raises:
        UserError: If the shard cannot be read.
    """
    kept = kept_index(shard, format, cache)
    return kept if kept is not None else _made_index(shard, format, cache)


def kept_index(shard: Path, format: str, cache: Path | None) -> ShardIndex | None:
    """Returns the index of a shard from its file; None without a file, or if the shard has changed since.

    Raises:
        UserError: If the shard cannot be read.
    """
    try:
        with index_file(shard, cache).open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        header = json_object(content[:_HEADER], "the header")
        index = ShardIndex(content, header["samples"])
    except (OSError, ValueError, KeyError):  # there is no file, or it is damaged
        return None
    return index if header == _header(shard, format, len(index)) else None


def _made_index(shard: Path, format: str, cache: Path | None) -> ShardIndex:
    header_before = _header(shard, format, 0)
    entries = import_name(SHARD_FORMATS[format].entries)(shard)
    texts = [json.dumps(entry, separators=(",", ":")).encode() for entry in entries]
    header = header_before | {"samples": len(texts)}
    ends = np.cumsum([len(text) for text in texts], dtype=np.uint64)
    content = json.dumps(header).encode().ljust(_HEADER) + ends.tobytes() + b"".join(texts)
    if SHARD_FORMATS[format].one_sample:
        return ShardIndex(content, len(texts))
    file = index_file(shard, cache)
    try:
        with atomic_file(file, "wb") as stream:
            stream.write(content)
    except UserError:
        _warn_of_unwritable(str(file.parent))
    return ShardIndex(content, len(texts))


def _header(shard: Path, format: str, num_samples: Any) -> dict[str, Any]:
    """Returns what the header of a shard's index must be now.

    Raises:
        UserError: If there is no such file.
    """
    try:
        status = regular_file(shard).stat()
    except OSError as error:
        raise UserError(f"{shard} cannot be read: {error}") from error
    known = {"version": 1, "format": format, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return known | {"samples": num_samples}


@cached
def _warn_of_unwritable(folder: str) -> None:
    log.warning("%s cannot be written: the indexes of its shards are made again at each start; set a cache", folder)
