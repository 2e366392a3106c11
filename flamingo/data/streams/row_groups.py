"""Groups of streamed samples -> rows of tokens, all of one shape, and batches of these rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from flamingo.data.batch_sizes import BatchSizes
from flamingo.data.collate import Batch, EncodedExample, count_label_tokens
from flamingo.data.document import Document
from flamingo.data.drops import (
    BROKEN_IMAGE,
    BROKEN_SAMPLE,
    BROKEN_SHARD,
    NO_ROOM,
    NOT_ENCODED,
    TOO_MANY_TOKENS,
    Dropped,
    Drops,
)
from flamingo.data.encode import IMAGES, checked_on_host, sizes_of
from flamingo.data.packing import pack_rows
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.shortening import TooManyTokensError
from flamingo.data.streams.drop_log import log_drop
from flamingo.data.streams.shard_order import Place, ShardOrder
from flamingo.data.streams.shard_reader import BrokenShardError, ShardReader
from flamingo.data.streams.stream_mixture import StreamMixture
from flamingo.utils.errors import UserError
from flamingo.utils.token_ids import TokenIds


@runtime_checkable
class SampleBuilder(Protocol):
    """Makes a document of a sample, as :data:`flamingo.data.builders.SAMPLE_BUILDERS` describes it."""

    def document(self, sample: Any, position: int) -> Document | Dropped:
        """Returns the document of a sample, or the reason why there is none."""
        ...


@dataclass(frozen=True)
class StreamedSource:
    """A source in shards: the order of its samples, their reader, and the builder of their documents."""

    order: ShardOrder
    reader: ShardReader
    builder: SampleBuilder

    def document(self, place: Place) -> Document | Dropped:
        """Returns the document of a sample, or the reason why there is none."""
        try:
            sample = self.reader.sample(place.shard, place.sample)
        except BrokenShardError:
            return Dropped(BROKEN_SHARD)
        except UserError as error:
            kind, _, _ = str(error).partition(": ")
            reason = f"{BROKEN_SAMPLE}: {kind}"
            log_drop(reason, f"{self.reader.shards[place.shard]}, sample {place.sample + 1}", error)
            return Dropped(reason)
        return self.builder.document(sample, place.position)


@dataclass(frozen=True)
class RowGroup:
    """The rows of a group, the ids of their documents, and what was left out."""

    tensors: dict[str, Shaped[Tensor, "..."]]
    ids: list[str]
    drops: Drops
    sizes: BatchSizes


@dataclass(frozen=True)
class _Encoded:
    """A document, and its tokens without pixels."""

    document: Document
    example: EncodedExample

    @property
    def num_tokens(self) -> int:
        return len(self.example.input_ids)

    @property
    def num_images(self) -> int:
        return len(self.example.images)


class RowGroups:
    """An endless data set of :class:`RowGroup`, each a pure function of the seed and its number."""

    def __init__(
        self,
        sources: Mapping[str, StreamedSource],
        mixture: StreamMixture,
        processor: FlamingoProcessor,
        rows: int,
        pack_to: int,
        max_images: int,
    ) -> None:
        """Makes the data set.

        Args:
            sources: The sources by name.
            mixture: Chooses the source of each group.
            processor: Encodes the documents.
            rows: The rows of a group.
            pack_to: The tokens of a row.
            max_images: The places for images in a row.
        """
        self.sources, self.mixture, self.processor = sources, mixture, processor
        self.rows, self.pack_to, self.max_images = rows, pack_to, max_images

    def documents(self, group: int) -> list[Document | Dropped]:
        """Returns the documents of the samples of a group, or the reasons why there are none.

        Raises:
            UserError: If all sources have ended.
        """
        chosen = self.mixture.at(group)
        source = self.sources[chosen.source]
        return [source.document(place) for place in source.order.group(chosen.stream, chosen.number)]

    def __getitem__(self, group: int) -> RowGroup:
        drops: Drops = Counter()
        encoded: list[_Encoded] = []
        for document in self.documents(group):
            drops += document.drops
            if isinstance(document, Dropped):
                continue
            made = self._encoded(document)
            if isinstance(made, Dropped):
                drops += made.drops
            else:
                encoded.append(made)
        placed = self._placed(encoded)
        num_placed = sum(len(row) for row in placed)
        if num_placed < len(encoded):
            drops[NO_ROOM] += len(encoded) - num_placed
        return self._packed(placed, drops)

    def _encoded(self, document: Document) -> _Encoded | Dropped:
        limit = min(self.pack_to, self.processor.tokenizer.model_max_length)
        try:
            example = self.processor.encode(document, max_length=limit, pixels=False)
        except TooManyTokensError:
            return Dropped(TOO_MANY_TOKENS)
        except UserError as error:
            log_drop(NOT_ENCODED, str(document), error)
            return Dropped(NOT_ENCODED)
        return _Encoded(document, example)

    def _placed(self, encoded: Sequence[_Encoded]) -> list[list[_Encoded]]:
        """Returns the documents of each row: the longest documents first, each in the first row with enough room."""
        rows: list[list[_Encoded]] = [[] for _ in range(self.rows)]
        for one in sorted(encoded, key=lambda one: one.num_tokens, reverse=True):
            for row in rows:
                tokens = sum(other.num_tokens for other in row) + one.num_tokens
                images = sum(other.num_images for other in row) + one.num_images
                if tokens <= self.pack_to and images <= self.max_images:
                    row.append(one)
                    break
        return rows

    def _packed(self, placed: Sequence[Sequence[_Encoded]], drops: Drops) -> RowGroup:
        """Returns the rows with the pixels of their images. A document with a broken image is left out."""
        rows: list[list[EncodedExample]] = []
        ids: list[str] = []
        for documents in placed:
            row: list[EncodedExample] = []
            for one in documents:
                try:
                    row.append(self._with_pixels(one))
                    ids.append(one.document.id)
                except UserError as error:
                    log_drop(BROKEN_IMAGE, str(one.document), error)
                    drops[BROKEN_IMAGE] += 1
            rows.append(row)
        tensors = pack_rows(rows, self.pack_to, self.max_images, self.processor.tokenizer.pad_token_id)
        examples = [example for row in rows for example in row]
        sizes = sum((sizes_of([example]) for example in examples), BatchSizes())
        return RowGroup(tensors, ids, drops, sizes)

    def _with_pixels(self, one: _Encoded) -> EncodedExample:
        if one.num_images == 0:
            return one.example
        pixels = self.processor.pixel_values(one.example.images, str(one.document), as_bytes=True)
        return replace(one.example, pixel_values=pixels)


def join_rows(groups: Sequence[RowGroup], known_ids: TokenIds | None = None) -> Batch:
    """Returns a batch of the rows of all groups.

    Args:
        groups: The groups.
        known_ids: The ids that the model has embeddings for: see :func:`flamingo.data.encode.make_batch`.

    Raises:
        UserError: For an id that is not among ``known_ids``.
    """
    tensors = {}
    for name in groups[0].tensors:
        if name not in IMAGES:
            tensors[name] = torch.cat([group.tensors[name] for group in groups])
    for name in IMAGES:
        shapes = [group.tensors[name] for group in groups if name in group.tensors]
        if shapes:
            tensors[name] = torch.cat([group.tensors.get(name, torch.zeros_like(shapes[0])) for group in groups])
    if known_ids is not None:
        tensors = checked_on_host(tensors, known_ids)
    ids = [id for group in groups for id in group.ids]
    drops = reduce(Counter.__add__, [group.drops for group in groups])
    sizes = sum((group.sizes for group in groups), BatchSizes())
    return Batch(tensors, ids, count_label_tokens(tensors["labels"]), sizes=sizes, drops=drops)
