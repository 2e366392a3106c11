"""Captioning people's own images: queries and demonstrations from sources of captioned images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Int

from flamingo.data.document import PROMPT
from flamingo.data.record import Record
from flamingo.evaluation.protocol import Example
from flamingo.utils.errors import UserError


@dataclass(frozen=True)
class Without(Sequence[Example]):
    """A view of ``examples`` without those at some places; making it costs nothing."""

    examples: Sequence[Example]
    #: In rising order.
    left_out: Sequence[int]

    def __len__(self) -> int:
        return len(self.examples) - len(self.left_out)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"there are {len(self)} examples, no example {index}")
        for left_out in self.left_out:
            if left_out <= place:
                place += 1
        return self.examples[place]


@dataclass
class Captioning:
    """Each of ``asked`` is to be captioned; what may be shown before it comes from ``pool``."""

    name: str
    asked: Sequence[Record]
    pool: Sequence[Record]
    #: What was left out of its shards, and why, by id.
    skipped: Mapping[str, str] = field(default_factory=dict)
    #: For each query the places in the pool of the images most similar to it, the most similar first.
    neighbours: Int[np.ndarray, "queries k"] | None = None
    #: For a query's id the places in the pool of its duplicates, which are never shown.
    duplicates: Mapping[str, frozenset[int]] = field(default_factory=dict)

    max_new_tokens: int = 30
    text_only: bool = True
    #: METEOR and SPICE are left out where what they need is not installed.
    corpus_metrics: tuple[str, ...] = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR", "SPICE")

    @cached_property
    def _queries(self) -> list[Example]:
        return [_example(image) for image in self.asked]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {query.id: place for place, query in enumerate(self._queries)}

    @cached_property
    def _candidates(self) -> list[Example]:
        return [_example(image) for image in self.pool]

    @cached_property
    def _place_in_pool(self) -> dict[str, int]:
        return {example.id: place for place, example in enumerate(self._candidates)}

    def queries(self) -> Sequence[Example]:
        return self._queries

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """All of the pool but the query, if it is in there, and its duplicates."""
        left_out = self.left_out(query)
        return [Without(self._candidates, sorted(left_out))]

    def similar(self, query: Example, number: int) -> Sequence[Example]:
        """Raises UserError where similarities were not computed, or not for as many."""
        if self.neighbours is None:
            raise UserError(f"{self.name}: similar demonstrations need features of all images")
        left_out = self.left_out(query)
        places = [place for place in self.neighbours[self._places[query.id]].tolist() if place not in left_out]
        if number > len(places):
            raise UserError(f"{self.name}: {query.id} has {len(places)} similar images at hand, not the {number} asked")
        return [self._candidates[place] for place in places[:number]]

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Captions are scored all together: see ``corpus_metrics``."""
        return {}

    def left_out(self, query: Example) -> frozenset[int]:
        """The places in the pool that are never shown before this query: its own, and its duplicates'."""
        itself = self._place_in_pool.get(query.id)
        duplicates = self.duplicates.get(query.id, frozenset())
        return duplicates if itself is None else duplicates | {itself}


def _example(image: Record) -> Example:
    return Example(image.id, image.image, image.captions, PROMPT)
