"""Data sets of any size, in shards: a shard is opened when one of its samples is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.data.page import Page
from flamingo.data.record import Record
from flamingo.data.url_store import UrlStore

#: The place of a sample in its shard, as JSON can hold it.
Entry = Any
#: Returns the places of all samples of a shard: its index. Raises UserError for a shard that cannot be read.
Entries = Callable[[Path], Sequence[Entry]]
#: Returns the sample at a place of a shard. The third argument is the folder of the images, or a store of them by their
#: URLs; None: they are in the shard, or beside it. Raises UserError for a broken sample; the message begins with the
#: kind of the fault, up to a colon.
ReadSample = Callable[[Path, Entry, Path | UrlStore | None], Record | Page]
#: Returns the number of samples of a shard from what lies beside it or from its footer; None if only its index tells.
Count = Callable[[Path], int | None]


@dataclass(frozen=True)
class ShardFormat:
    """A layout of shards on disk."""

    #: A description of its files, for errors that list all formats.
    looks: str
    #: "module:function" of the :data:`Entries`.
    entries: str
    #: "module:function" of the :data:`ReadSample`.
    sample: str
    #: "module:function" of the :data:`Count`; None: only the index tells the number of samples.
    count: str | None = None
    #: Patterns of the names of its shards in a folder.
    files: tuple[str, ...] = ()
    #: Whether samples are :class:`flamingo.data.page.Page`; otherwise :class:`flamingo.data.record.Record`.
    has_pages: bool = False


#: The formats by the names that ``format`` of a streamed source has for them.
SHARD_FORMATS: dict[str, ShardFormat] = {}
