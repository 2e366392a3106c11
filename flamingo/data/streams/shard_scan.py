"""Reads all samples of shards once, in the order of the shards. No index is kept."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from tqdm import tqdm

from flamingo.data.drops import Drops
from flamingo.data.pages.page import Page
from flamingo.data.records.record import Record
from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)

#: Keeps a shard on the disk while a block runs.
Opened = Callable[[Path], AbstractContextManager[None]]


def _on_disk(shard: Path) -> AbstractContextManager[None]:
    return nullcontext()


def scan_shards(
    shards: Sequence[Path],
    format: str,
    images: Path | UrlStore | None,
    drops: Drops,
    label: str,
    opened: Opened = _on_disk,
    limit: int | None = None,
) -> Iterator[Record | Page]:
    """Yields all samples.

    Args:
        shards: The shards.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        images: The folder of the images, or a store of them by their URLs, if the shards only name them.
        drops: Gets the number of broken shards and samples, by reason.
        label: The verb of the progress bar.
        opened: Keeps a shard on the disk while it is read, and while the picture of its last sample is opened.
        limit: The number of samples that are read, broken ones included; None: all.

    Yields:
        Samples that can be read. Broken ones are counted.
    """
    layout = SHARD_FORMATS[format]
    entries, read = import_name(layout.entries), import_name(layout.sample)
    sort = "page" if layout.has_pages else "image"
    num_read = 0
    for shard in tqdm(shards, label, unit=" shards"):
        if limit is not None and num_read >= limit:
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(opened(shard))
                places = entries(shard)
            except UserError as error:
                log.warning("a shard is left out: %s", error)
                drops["shard that cannot be read"] += 1
                continue
            for place in places:
                if limit is not None and num_read >= limit:
                    return
                num_read += 1
                try:
                    sample = read(shard, place, images)
                except UserError as error:
                    kind, _, _ = str(error).partition(": ")
                    drops[f"{sort}: {kind}"] += 1
                    continue
                yield sample
