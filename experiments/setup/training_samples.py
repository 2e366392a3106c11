"""A config of data -> all samples that a training may see, each read once."""

from collections.abc import Iterator
from dataclasses import replace

from tqdm import tqdm

from experiments.schema import DataConfig
from flamingo.data.drops import Drops
from flamingo.data.img2dataset_store import images_at
from flamingo.data.pages.page import Page
from flamingo.data.records.record import Record
from flamingo.data.source_keys import DATA_KEYS
from flamingo.data.sources import list_split
from flamingo.data.streams.shard_scan import scan_shards
from flamingo.data.streams.source_shards import shards_of
from flamingo.data.streams.streamed_config import StreamedSourceConfig
from flamingo.utils.checks import within


def training_samples(config: DataConfig, drops: Drops) -> Iterator[Record | Page]:
    """Yields the records of ``data.root``, and the records and pages of streamed sources, in the order of their files.

    Args:
        config: The data.
        drops: Gets the number of samples that cannot be read, by reason.

    Raises:
        UserError: With the key, for a source that cannot be read.
    """
    if config.root is not None:
        skipping = replace(config, broken_images="skip")
        records = list_split(config.root, skipping, config.split, DATA_KEYS, questions=None, needs_captions=False)
        for reason in records.skipped.values():
            drops[f"image: {reason.partition(': ')[0]}"] += 1
        yield from tqdm(records, "searching", unit=" samples")
    for name, documents in config.streamed().items():
        for source_name, source in documents.sources.items():
            with within(f"data.documents.{name}.sources.{source_name}"):
                yield from _streamed(source, drops)


def _streamed(source: StreamedSourceConfig, drops: Drops) -> Iterator[Record | Page]:
    shards = shards_of(source)
    images = images_at(source.images, source.cache)
    if shards.remote is None:
        return scan_shards(shards.paths, shards.format, images, drops, "searching", limit=source.limit)
    return scan_shards(
        shards.paths, shards.format, images, drops, "searching", shards.remote.opened, limit=source.limit
    )
