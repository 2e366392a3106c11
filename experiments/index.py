"""Counts the samples of shards and writes the indexes that are missing, in several processes.

python -m experiments.index root=DIR format=tar
python -m experiments.index root='DIR/part-*.tar' format=tar cache=FOLDER num_workers=16

Streamed data need the number of samples of each shard. It comes from sizes.json, which this command writes next to the
shards or into the cache, from the stats of img2dataset, or from the format itself.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from flamingo.data.streams import SHARD_FORMATS
from flamingo.utils.checks import one_of, positive, whole


@dataclass(kw_only=True)
class IndexConfig:
    """The shards to index."""

    #: The shards: a folder, a pattern in quotes, or a URL of them.
    root: str
    #: The format of the shards.
    format: str
    #: The folder of indexes, sizes, and copies of shards at URLs; null: next to the shards.
    cache: str | None = None
    #: The gigabytes of the copies of shards at URLs.
    cache_gb: float = 100.0
    #: Processes that index shards.
    num_workers: int = 4

    def __post_init__(self) -> None:
        one_of("format", self.format, SHARD_FORMATS)
        positive("cache_gb", self.cache_gb)
        whole("num_workers", self.num_workers, least=1)


main = command("index", IndexConfig, "experiments.runs.run_indexing:run_job")

if __name__ == "__main__":
    main()
