"""The pool of a task: the records that demonstrations are chosen from."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.fitting import fitting
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.record import LazySequence, Record, Subset
from flamingo.evaluation.protocol import Example
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import ImageSimilarity, NamedPair, index_neighbours, support_duplicates


@dataclass(frozen=True)
class Excluding(Sequence[Example]):
    """A view of ``examples`` without some positions. It copies nothing."""

    examples: Sequence[Example]
    #: The positions to leave out, in increasing order.
    excluded: Sequence[int]

    def __len__(self) -> int:
        return len(self.examples) - len(self.excluded)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        position = index
        if index < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} examples, no example {index}")
        for excluded in self.excluded:
            if excluded <= position:
                position += 1
        return self.examples[position]


def drawn_records(records: LazySequence, size: int | None) -> LazySequence:
    """Returns so many records at random, always the same ones, in their order; all if there are not more."""
    if size is None or size >= len(records):
        return records
    rng = random.Random(f"support, {size} of {len(records)}")
    return Subset(records, sorted(rng.sample(range(len(records)), size)))


@dataclass
class Pool:
    """Records of images, of which no query is shown itself or its duplicates."""

    records: Sequence[Record]
    #: The name of another data set than the task's own support. The ids of its examples begin with it, since images of
    #: two data sets may have the same id.
    name: str | None = None
    #: For each query the positions of the images most similar to it, the most similar first.
    neighbours: Int[np.ndarray, "queries k"] | None = None
    #: Similarity -> for each query the positions of the records most similar to it by their texts, without duplicates.
    text_neighbours: dict[str, Int[np.ndarray, "queries k"]] = field(default_factory=dict)
    #: Id of a query -> the positions of its duplicates, which are never shown.
    duplicates: Mapping[str, frozenset[int]] = field(default_factory=dict)
    #: Id of a query -> the ids of the records that belong to it, such as the other image of its pair. Neither they nor
    #: their duplicates are shown.
    related: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Compares images. None before :meth:`index`, and for an empty pool.
    similarity: ImageSimilarity | None = None

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {record.id: position for position, record in enumerate(self.records)}

    def name_of(self, id: str) -> str:
        """Returns the name of an image in results and reports: its id, after the name of another data set."""
        return id if self.name is None else f"{self.name}/{id}"

    def similar(self, query: Example, query_position: int) -> list[int]:
        """Returns the positions of the neighbours of the query that :meth:`index` has found, the most similar first.

        Args:
            query: The query, which is left out with its duplicates.
            query_position: The position of the query among all queries.
        """
        assert self.neighbours is not None
        excluded = self.excluded(query)
        neighbours = self.neighbours[query_position].tolist()
        return [position for position in neighbours if position not in excluded]

    def fitting(
        self, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int, too_long: str
    ) -> tuple["Pool", dict[str, str]]:
        """Returns the pool without the images that no prompt can show, with captions that fit, and those left out.

        Args:
            processor: Counts tokens.
            template: The template of captions.
            max_new_tokens: The tokens that are generated after a prompt.
            too_long: The action for captions that are too long: see :func:`flamingo.data.fitting.fitting`.

        Returns:
            The pool, and for the id of each image that is left out the reason.

        Raises:
            UserError: If no image is left.
        """
        new_tokens = processor.chunk_length(template.prompt) + max_new_tokens
        assert isinstance(self.records, LazySequence)
        fitted = fitting(self.records, processor, new_tokens, too_long, template)
        skipped = {self.name_of(id): reason for id, reason in fitted.skipped.items()}
        return replace(self, records=fitted.records), skipped

    def index(self, features: FeatureStore, queries: Sequence[Record], num_neighbours: int) -> list[NamedPair]:
        """Finds the duplicates of the queries in the pool, and the images that are most similar to each query.

        Args:
            features: The features of all images, which were added before.
            queries: The records of the queries.
            num_neighbours: The number of similar images for each query; 0: only duplicates are searched.

        Returns:
            The near-duplicates of queries in the pool, without the queries themselves.
        """
        if not self.records:
            return []
        index = index_neighbours(features, queries, self.records, num_neighbours)
        self.duplicates = index.duplicates
        self.neighbours = index.neighbours
        self.similarity = index.similarity
        return support_duplicates(index, queries, self.records)

    def excluded(self, query: Example) -> frozenset[int]:
        """Returns the positions that are never shown before this query.

        They are those of the query, of the records that belong to it, and of the duplicates of both.
        """
        excluded: set[int] = set()
        for id in (query.id, *self.related.get(query.id, ())):
            excluded |= self.duplicates.get(id, frozenset())
            if id in self._positions:
                excluded.add(self._positions[id])
        return frozenset(excluded)
