"""Reads all samples of shards once, in the order of the shards. No index is kept."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from flamingo.data.drops import Drops
from flamingo.data.page import Page
from flamingo.data.record import Record
from flamingo.data.streams import SHARD_FORMATS
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)


def scan_shards(
    shards: Sequence[Path], format: str, images: Path | None, drops: Drops, label: str
) -> Iterator[Record | Page]:
    """Yields all samples.

    Args:
        shards: The shards.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        images: The folder of the images, if the shards only name them.
        drops: Gets the number of broken shards and samples, by reason.
        label: The verb of the progress bar.

    Yields:
        Samples that can be read. Broken ones are counted.
    """
    layout = SHARD_FORMATS[format]
    entries, read = import_name(layout.entries), import_name(layout.sample)
    sort = "page" if layout.has_pages else "image"
    for shard in tqdm(shards, label, unit=" shards"):
        try:
            places = entries(shard)
        except UserError as error:
            log.warning("a shard is left out: %s", error)
            drops["shard that cannot be read"] += 1
            continue
        for place in places:
            try:
                sample = read(shard, place, images)
            except UserError as error:
                kind, _, _ = str(error).partition(": ")
                drops[f"{sort}: {kind}"] += 1
                continue
            yield sample
