"""Entries of ``data.documents`` that are streamed from shards -> their data sets, documents and checksums."""

import logging
import math
from collections import Counter
from functools import partial

from experiments.schema import JSON, DataConfig, StreamedSetConfig
from experiments.train import TrainConfig
from flamingo import Document, FlamingoProcessor
from flamingo.data.builders import SAMPLE_BUILDERS
from flamingo.data.drops import Drops, counts_text
from flamingo.data.img2dataset_store import images_at
from flamingo.data.order import Endless
from flamingo.data.streams.group_loader import GroupLoader, group_loader
from flamingo.data.streams.row_groups import RowGroups, StreamedSource, join_rows
from flamingo.data.streams.shard_order import ShardOrder, limited
from flamingo.data.streams.source_shards import shards_of
from flamingo.data.streams.stream_mixture import StreamMixture
from flamingo.data.streams.streamed_config import StreamedConfig, StreamedSourceConfig
from flamingo.utils.checks import named, within
from flamingo.utils.checksums import digest_of
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of
from flamingo.utils.token_ids import TokenIds

log = logging.getLogger(__name__)

#: The groups in which a dry run looks for a document.
_SEARCHED = 100


def own_seed(seed: int, name: str) -> str:
    """Returns the seed of a data set. Data sets of one run differ in their order and in their random draws."""
    return f"{seed} {name}"


def streamed_loader(
    name: str,
    entry: StreamedSetConfig,
    processor: FlamingoProcessor,
    seed: str,
    num_workers: int,
    known_ids: TokenIds | None,
) -> GroupLoader:
    """Returns the batches of an entry.

    Args:
        name: The name of the entry.
        entry: The entry.
        processor: Encodes the documents.
        seed: The seed of all random draws.
        num_workers: The number of processes that encode documents.
        known_ids: The token ids with embeddings.

    Raises:
        UserError: With the key, for shards that cannot be used, and if the processes cannot share a batch.
    """
    documents = entry.documents
    groups = row_groups(name, documents, processor, seed)
    for source_name, source in groups.sources.items():
        key, order = f"data.documents.{name}.sources.{source_name}", source.order
        log.info("%s: %d samples in %d shards", key, order.num_samples, len(order.samples))
    with within(f"data.documents.{name}"):
        return group_loader(groups, partial(join_rows, known_ids=known_ids), documents.batch_size, num_workers)


def row_groups(name: str, config: StreamedConfig, processor: FlamingoProcessor, seed: str) -> RowGroups:
    """Returns the groups of rows of an entry. No shard is opened.

    Args:
        name: The name of the entry.
        config: The documents of the entry.
        processor: Encodes the documents.
        seed: The seed of all random draws.

    Raises:
        UserError: With the key, for shards that cannot be used.
    """
    sources: dict[str, StreamedSource] = {}
    for source_name, source in config.sources.items():
        key = f"data.documents.{name}.sources.{source_name}"
        sources[source_name] = _source(key, config, source, processor, f"{seed} {source_name}")
    orders = {name: source.order for name, source in sources.items()}
    weights = {name: source.weight for name, source in config.sources.items()}
    epochs = {name: source.epochs for name, source in config.sources.items()}
    with within(f"data.documents.{name}"):
        mixture = StreamMixture(orders, weights, epochs, config.streams, seed)
    return RowGroups(sources, mixture, processor, config.rows, config.pack_to, config.max_images)


def _source(
    key: str, config: StreamedConfig, source: StreamedSourceConfig, processor: FlamingoProcessor, seed: str
) -> StreamedSource:
    with named(key):
        shards = shards_of(source)
        sizes = limited(shards.sizes(), source.limit)
        order = ShardOrder(sizes, config.streams, config.group_size, config.window, seed)
        images = images_at(source.images, source.cache)
    with within(f"{key}.documents"):
        builder = class_of(SAMPLE_BUILDERS, source.documents.kind)(source.documents, processor, seed)
    return StreamedSource(order, shards.reader(images), builder)


def check_streamed(config: TrainConfig, processor: FlamingoProcessor) -> None:
    """Checks that the shards of a training can be used by these processes, and that they suffice for all of its steps.

    Args:
        config: The training.
        processor: Encodes the documents.

    Raises:
        UserError: With the key, if they cannot be used, or end before the training, and if the processes cannot share
            a batch.
    """
    training = config.training
    turns = len(config.data.documents) if training.mixing == "round_robin" else 1
    num_batches = math.ceil(training.steps / turns) * training.accumulate
    for name, documents in config.data.streamed().items():
        groups = row_groups(name, documents, processor, own_seed(training.seed, name))
        with within(f"data.documents.{name}"):
            loader = group_loader(groups, list, documents.batch_size)
        if documents.streams % loader.num_machines != 0:
            log.warning(
                "data.documents.%s.streams=%d is not a multiple of %d machines: each of them opens the shards of all "
                "streams",
                name,
                documents.streams,
                loader.num_machines,
            )
        needed, available = num_batches * documents.batch_size, groups.mixture.num_groups
        if available is not None and available < needed:
            raise UserError(
                f"data.documents.{name}: the sources end after {available} groups, but training.steps={training.steps} "
                f"needs {needed}: raise the epochs of a source"
            )


def elastic_keys(config: DataConfig) -> tuple[str, ...]:
    """Returns the keys of streamed entries that a run may change when it resumes."""
    keys: list[str] = []
    for name, documents in config.streamed().items():
        # The samples that follow are drawn in larger or smaller batches.
        keys.append(f"data.documents.{name}.batch_size")
        for source in documents.sources:
            for key in ("cache", "cache_gb", "timeout", "attempts"):
                keys.append(f"data.documents.{name}.sources.{source}.{key}")
    return tuple(keys)


class FirstDocuments:
    """An endless data set: the first document of each group that has one, else of one of the next groups."""

    def __init__(self, name: str, groups: RowGroups) -> None:
        self.name, self.groups = name, groups

    def __getitem__(self, position: int) -> Document:
        """Returns the first document from a group on.

        Raises:
            UserError: With the key, if none of many groups has a document.
        """
        drops: Drops = Counter()
        for group in self._searched(position):
            for document in self.groups.documents(group):
                if isinstance(document, Document):
                    return document
                drops += document.drops
        raise UserError(
            f"data.documents.{self.name}: none of the first samples gives a document; left out: {counts_text(drops)}"
        )

    def _searched(self, position: int) -> range:
        """Returns the groups in which a document is searched. Sources with a limit of epochs have an end."""
        end = position + _SEARCHED
        available = self.groups.mixture.num_groups
        return range(position, end if available is None else min(end, available))


def streamed_documents(config: DataConfig, processor: FlamingoProcessor, seed: int) -> dict[str, Endless[Document]]:
    """Returns documents of each streamed entry by its name.

    Raises:
        UserError: With the key, for shards that cannot be used.
    """
    documents: dict[str, Endless[Document]] = {}
    for name, streamed in config.streamed().items():
        documents[name] = FirstDocuments(name, row_groups(name, streamed, processor, own_seed(seed, name)))
    return documents


def streamed_contents(config: DataConfig) -> JSON:
    """Returns a checksum of the names and sizes of the shards of each source of a config."""
    checksums: JSON = {}
    for name, documents in config.streamed().items():
        for source_name, source in documents.sources.items():
            shards = shards_of(source)
            sizes = shards.sizes()
            sized = [f"{shard.name} {size}" for shard, size in zip(shards.paths, sizes, strict=True)]
            checksums[f"{name}.{source_name}"] = digest_of(sized)
    return checksums
