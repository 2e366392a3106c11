"""Lists the URLs of images in shards."""

import logging
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from tqdm import tqdm

from experiments.cli.command import Job
from experiments.list_urls import ListUrlsConfig
from flamingo.data.document import Image
from flamingo.data.readers.caption_table import TableRow, table_row
from flamingo.data.readers.columns import pyarrow_module
from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.streams.shard_sizes import list_shards
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file
from flamingo.utils.kinds import import_name

log = logging.getLogger(__name__)

#: Rows of a row group.
_ROWS = 100_000


class _NotedUrls:
    """A store that lacks all pictures, and notes the URLs that are looked for."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def find(self, url: str) -> Image | None:
        """Returns None, and notes the URL."""
        self.urls.append(url)
        return None


def run_listing(config: ListUrlsConfig) -> int:
    """Returns the number of URLs, which are then in the file. Each is listed once, with its first caption.

    Raises:
        UserError: If there are no shards or URLs, or the file cannot be written.
    """
    pyarrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    has_captions = config.format == "caption_table"
    names = ["url", "caption"] if has_captions else ["url"]
    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
    total = 0
    with atomic_file(Path(config.output), "wb") as stream, parquet.ParquetWriter(stream, schema) as writer:
        for rows in _batches(_distinct(_rows(config))):
            columns = [[row.url for row in rows], [row.caption for row in rows]]
            writer.write_table(pyarrow.table(columns[: len(names)], schema=schema))
            total += len(rows)
        if total == 0:
            raise UserError(f"root={config.root} has no URL of an image")
    log.info("%d URLs: %s", total, config.output)
    return total


def _rows(config: ListUrlsConfig) -> Iterator[TableRow]:
    """Yields the URLs of all shards, with captions if there are any. Broken samples are counted and logged."""
    shard_format = SHARD_FORMATS[config.format]
    entries, sample = import_name(shard_format.entries), import_name(shard_format.sample)
    num_broken = 0
    for shard in tqdm(list_shards(config.root, config.format), "listing", unit=" shards"):
        for entry in entries(shard):
            try:
                if config.format == "caption_table":
                    yield table_row(shard, entry)
                    continue
                noted = _NotedUrls()
                sample(shard, entry, noted)
                for url in noted.urls:
                    yield TableRow(url, None)
            except UserError as error:
                log.debug("left out: %s", error)
                num_broken += 1
    if num_broken:
        log.warning("%s: left out %d broken samples", config.root, num_broken)


def _distinct(rows: Iterator[TableRow]) -> Iterator[TableRow]:
    """Yields the first row of each URL that img2dataset can download. Known URLs take 8 bytes and a place in a set."""
    known: set[bytes] = set()
    for row in rows:
        if row.url is None or not row.url.lower().startswith(("http://", "https://")):
            continue
        digest = blake2b(row.url.encode(), digest_size=8).digest()
        if digest not in known:
            known.add(digest)
            yield row


def _batches(rows: Iterator[TableRow]) -> Iterator[list[TableRow]]:
    batch: list[TableRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def run_job(job: Job[ListUrlsConfig]) -> None:
    """Runs the command."""
    run_listing(job.load())
