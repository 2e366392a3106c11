"""The shards of a source on disk: reads a sample by the number of its shard and its number in the shard."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import lru_cache
from pathlib import Path

from flamingo.data.pages.page import Page
from flamingo.data.records.record import Record
from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.streams.picture_bytes import with_bytes
from flamingo.data.streams.remote_shards import RemoteShards
from flamingo.data.streams.shard_index import ShardIndex, open_index
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)

#: The most shards whose indexes are open at once.
_OPEN_INDEXES = 128


class BrokenShardError(UserError):
    """A shard cannot be read, or has fewer samples than its size says."""


class ShardReader:
    """Samples of shards. A shard is opened when one of its samples is read."""

    def __init__(
        self,
        shards: Sequence[Path],
        format: str,
        images: Path | UrlStore | None = None,
        cache: Path | None = None,
        remote: RemoteShards | None = None,
    ) -> None:
        """Makes the reader. No file is opened.

        Args:
            shards: The shards.
            format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
            images: The folder of the images, or a store of them by their URLs, if the shards only name them.
            cache: The folder of the indexes; None: beside the shards.
            remote: The store of the shards, which are then the paths of their copies; None: they are on the disk.
        """
        self.shards, self.format, self.images, self.cache = shards, format, images, cache
        self.remote = remote
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self._opened)

    def sample(self, shard: int, number: int) -> Record | Page:
        """Returns a sample.

        Args:
            shard: The number of the shard.
            number: The number of the sample in the shard.

        Raises:
            BrokenShardError: If the shard cannot be read, or has no such sample. It is logged once.
            UserError: If the sample is broken.
        """
        index = self._index(shard)
        if isinstance(index, str):
            raise BrokenShardError(index)
        file = self.shards[shard]
        if number >= len(index):
            raise BrokenShardError(f"{file} has only {len(index)} samples")
        read = import_name(SHARD_FORMATS[self.format].sample)
        if self.remote is None:
            return read(file, index[number], self.images)
        with ExitStack() as stack:
            try:
                stack.enter_context(self.remote.opened(file))
            except UserError as error:
                raise BrokenShardError(str(error)) from error
            # The copy may be gone when the pictures are opened.
            return with_bytes(read(file, index[number], self.images))

    def _opened(self, shard: int) -> ShardIndex | str:
        """Returns the index of a shard, or the reason why there is none."""
        file = self.shards[shard]
        try:
            with nullcontext() if self.remote is None else self.remote.opened(file):
                return open_index(file, self.format, self.cache)
        except UserError as error:
            log.warning("a shard is left out: %s", error)
            return str(error)
