"""The shards of a source, on the disk or at URLs: their sizes, and the reader of their samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from flamingo.data.streams.download import Download, is_url
from flamingo.data.streams.remote_shards import RemoteShards, is_list, urls_at
from flamingo.data.streams.shard_cache import ShardCache
from flamingo.data.streams.shard_reader import ShardReader
from flamingo.data.streams.shard_sizes import list_shards, read_sizes, shard_sizes, write_sizes
from flamingo.data.streams.streamed_config import StreamedSourceConfig
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError


@dataclass(frozen=True)
class SourceShards:
    """The shards of a source. Their paths are those of their copies if they are at URLs."""

    root: str
    format: str
    paths: Sequence[Path]
    #: The folder of the indexes and sizes; None: beside the shards, or beside their copies.
    cache: Path | None
    #: The store of the shards; None: they are on the disk.
    remote: RemoteShards | None

    def sizes(self) -> Int64[np.ndarray, " shards"]:
        """Returns the number of samples of each shard.

        Raises:
            UserError: If the size of a shard is not known, or the store fails.
        """
        if self.remote is None:
            return shard_sizes(self.paths, self.format, self.cache)
        self.remote.find_sizes()
        arguments = f"root='{self.root}' cache='{self.remote.cache.folder}'"
        return shard_sizes(self.paths, self.format, self.cache, arguments)

    def write_sizes(self, num_workers: int) -> dict[Path, int]:
        """Writes the sizes and the missing indexes, as :func:`flamingo.data.streams.shard_sizes.write_sizes`.

        A shard at a URL is downloaded only if its size is not known.

        Args:
            num_workers: The number of processes.

        Returns:
            The number of samples of each shard.

        Raises:
            UserError: If the store fails, or the folder cannot be written.
        """
        if self.remote is None:
            return write_sizes(self.paths, self.format, self.cache, num_workers)
        self.remote.find_sizes()
        known = {folder: read_sizes(folder) for folder in {path.parent for path in self.paths}}
        sizes = {path: known[path.parent][path.name] for path in self.paths if path.name in known[path.parent]}
        missing = [path for path in self.paths if path not in sizes]
        return sizes | write_sizes(missing, self.format, None, num_workers, self.remote.opened)

    def reader(self, images: Path | UrlStore | None) -> ShardReader:
        """Returns the reader of the samples.

        Args:
            images: The folder of the images, or a store of them by their URLs; None: they are in the shards.
        """
        return ShardReader(self.paths, self.format, images, self.cache, self.remote)


def source_shards(
    root: str, format: str, cache: str | None, cache_gb: float = 100.0, download: Download | None = None
) -> SourceShards:
    """Returns the shards at a root. No shard is opened or downloaded.

    Args:
        root: A folder, a pattern or a single file; or a URL or a list of URLs, as
            :func:`flamingo.data.streams.remote_shards.urls_at`.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        cache: The folder of indexes, sizes and copies; None: beside the shards.
        cache_gb: The gigabytes of all copies.
        download: How shards at URLs are downloaded; None: with the defaults.

    Raises:
        UserError: If there are no shards, or shards at URLs have no cache.
    """
    if not (is_url(root) or is_list(root)):
        folder = None if cache is None else Path(cache)
        return SourceShards(root, format, list_shards(root, format), folder, None)
    if cache is None:
        raise UserError(f"cache must be a folder: the shards of {root} are copied into it")
    download = download or Download()
    copies = ShardCache(Path(cache), int(cache_gb * 1e9))
    remote = RemoteShards(urls_at(root, format, download), copies, download)
    return SourceShards(root, format, remote.paths, None, remote)


def shards_of(source: StreamedSourceConfig) -> SourceShards:
    """Returns the shards of a streamed source, as :func:`source_shards`."""
    download = Download(source.timeout, source.attempts)
    return source_shards(source.root, source.format, source.cache, source.cache_gb, download)
