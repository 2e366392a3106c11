"""Writes the sizes and the missing indexes of shards."""

import logging
from pathlib import Path

from experiments.cli.command import Job
from experiments.index import IndexConfig
from flamingo.data.streams.source_shards import source_shards

log = logging.getLogger(__name__)


def run_indexing(config: IndexConfig) -> dict[Path, int]:
    """Returns the number of samples of each shard, which is then on disk.

    Raises:
        UserError: If there are no shards, or the folder cannot be written.
    """
    shards = source_shards(config.root, config.format, config.cache, config.cache_gb)
    sizes = shards.write_sizes(config.num_workers)
    num_empty = sum(size == 0 for size in sizes.values())
    log.info("%s: %d samples in %d shards", config.root, sum(sizes.values()), len(sizes))
    if num_empty > 0:
        log.warning("%s: %d shards have no samples", config.root, num_empty)
    return sizes


def run_job(job: Job[IndexConfig]) -> None:
    """Runs the command."""
    run_indexing(job.load())
