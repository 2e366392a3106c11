"""What the tasks on records have in common: queries, and pools of records that demonstrations are chosen from."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.record import Record, RecordList
from flamingo.data.source_keys import SourceKeys
from flamingo.data.sources import SourceSplit, read_split
from flamingo.data.text_checks import sample_captions, script_problem, tokenizer_problems
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.metrics.clip_score import ClipScore
from flamingo.evaluation.metrics.row_metrics import RowMetric
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.selection import NUM_TEXT_ONLY
from flamingo.evaluation.tasks import PooledConfig
from flamingo.evaluation.tasks.pool import Excluding, Pool
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import NamedPair, query_duplicates
from flamingo.utils.errors import UserError
from flamingo.utils.maximum import last_maximum

log = logging.getLogger(__name__)

#: The keys that errors name.
QUERY_KEYS = SourceKeys("task.query", "task.query_split", "task")
SUPPORT_KEYS = SourceKeys("task.support", "task.support_split", "task")


@dataclass
class PooledTask(ABC):
    """Queries from records. The demonstrations of all queries come from the same pools of records.

    A subclass makes the examples of its records, reads its config and scores outputs.
    """

    name: str
    query_records: Sequence[Record]
    #: The task's own support.
    pool: Pool
    #: Name of another data set -> its records.
    other_pools: Mapping[str, Pool] = field(default_factory=dict)
    #: Id -> the reason why a record was left out.
    skipped: Mapping[str, str] = field(default_factory=dict)

    measures_copying: ClassVar[bool] = True
    max_new_tokens: int = 30
    language: str = "en"
    text_only: bool = True
    #: Names of :data:`flamingo.evaluation.metrics.METRICS`.
    corpus_metrics: tuple[str, ...] = ()
    #: Metrics of whole rows of predictions.
    row_metrics: Sequence[RowMetric] = ()

    def __post_init__(self) -> None:
        # The pool needs one more record than is shown, since the query may be among them.
        self.text_only = self.text_only and len(self.pool.records) > NUM_TEXT_ONLY

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any, open_images: bool = True) -> "PooledTask":
        """Returns the task of its config: see :class:`flamingo.evaluation.protocol.Task`."""

    @abstractmethod
    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns the task's own metrics of one output: see :class:`flamingo.evaluation.protocol.Task`."""

    @abstractmethod
    def _query(self, record: Record) -> Example:
        """Returns the query of a record."""

    @abstractmethod
    def _candidate(self, record: Record) -> Example:
        """Returns the demonstration of a record."""

    @abstractmethod
    def _fitted(
        self, pool: Pool, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int
    ) -> tuple[Pool, dict[str, str]]:
        """Returns the pool without the records that no prompt can show, and id -> the reason for each of these.

        Raises:
            UserError: If no record is left.
        """

    @cached_property
    def _queries(self) -> list[Example]:
        return [self._query(record) for record in self.query_records]

    @cached_property
    def _query_positions(self) -> dict[str, int]:
        return {query.id: position for position, query in enumerate(self._queries)}

    @cached_property
    def _candidates(self) -> list[Example]:
        candidates = []
        for record in self.pool.records:
            candidates.append(replace(self._candidate(record), id=self.pool.name_of(record.id)))
        return candidates

    @cached_property
    def other_supports(self) -> dict[str, "PooledTask"]:
        """Name of another data set -> the task with its demonstrations, which errors name after the task."""
        supports = {}
        for name, pool in self.other_pools.items():
            supports[name] = replace(self, name=f"{self.name} with support {name}", pool=pool, other_pools={})
        return supports

    @property
    def support_records(self) -> Sequence[Record]:
        """The records of the task's own support."""
        return self.pool.records

    def queries(self) -> Sequence[Example]:
        """Returns all queries, in the order of their records."""
        return self._queries

    def support(self, query: Example) -> Sequence[Sequence[Example]]:
        """Returns the pool, as one group, without the query and its duplicates; empty without a pool."""
        if not self.pool.records:
            return []
        return [Excluding(self._candidates, sorted(self.pool.excluded(query)))]

    def similar(self, query: Example, number: int) -> Sequence[Example]:
        """Returns the candidates most similar to the query, the most similar first.

        Raises:
            UserError: Before :meth:`index`, and for more candidates than it has found.
        """
        if self.pool.neighbours is None:
            raise UserError(f"{self.name}: similar demonstrations need features of all images")
        positions = self.pool.similar(query, self._query_positions[query.id])
        if number > len(positions):
            raise UserError(f"{self.name}: {query.id} has {len(positions)} similar images, but {number} are needed")
        return [self._candidates[position] for position in positions[:number]]

    def nearest(self, query: Example, examples: Sequence[Example]) -> Example:
        """Returns the example whose image is most similar to the query's, of equally similar ones the last.

        Raises:
            UserError: Before :meth:`index`.
        """
        if self.pool.similarity is None:
            raise UserError(f"{self.name}: the most similar image needs features of all images")
        images = [example.image for example in examples]
        return examples[last_maximum(self.pool.similarity(query.image, images))]

    def cider(self, query: Example) -> CiderReward:
        """Returns CIDEr-D of captions, with the document frequencies of the pool's captions."""
        return self._cider

    @cached_property
    def _cider(self) -> CiderReward:
        return CiderReward([record.captions for record in self.pool.records], self.language)

    def mark_encoder(self, fingerprint: str) -> None:
        """Tells CLIPScore the model's vision encoder, so that scores by the same encoder are marked."""
        for metric in self.row_metrics:
            if isinstance(metric, ClipScore):
                metric.model_encoder = fingerprint

    def fitting(self, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int) -> "PooledTask":
        """Returns the task without the records of its pools that no prompt can show.

        Raises:
            UserError: If no record of a pool is left.
        """
        self._log_problems(processor)
        if not self.pool.records:
            return self
        pool, skipped = self._fitted(self.pool, processor, template, max_new_tokens)
        other_pools = {}
        for name, other in self.other_pools.items():
            other_pools[name], skipped_of_other = self._fitted(other, processor, template, max_new_tokens)
            skipped |= skipped_of_other
        return replace(self, pool=pool, other_pools=other_pools, skipped=dict(self.skipped) | skipped)

    def _log_problems(self, processor: FlamingoProcessor) -> None:
        """Logs signs that the captions do not fit the task's language, or the tokenizer of the language model."""
        captions = sample_captions(self.query_records) + sample_captions(self.pool.records)
        problems = tokenizer_problems(captions, processor.tokenizer)
        script = script_problem(captions, self.language)
        for problem in problems if script is None else [script] + problems:
            log.warning("%s: %s", self.name, problem)

    def index(
        self, features: FeatureStore, num_neighbours: int, training_records: Sequence[Record] = ()
    ) -> dict[str, list[NamedPair]]:
        """Finds the duplicates of the queries, and the images of each pool that are most similar to each query.

        Args:
            features: The features of all images, which were added before.
            num_neighbours: The number of similar images for each query; 0: only duplicates are searched.
            training_records: The records that the model was trained on.

        Returns:
            The near-duplicates of queries in each support, among the queries, and in the training records.
        """
        report = {"support": self.pool.index(features, self.query_records, num_neighbours)}
        for name, pool in self.other_pools.items():
            report[f"support {name}"] = pool.index(features, self.query_records, num_neighbours)
        return report | query_duplicates(features, self.query_records, training_records)


def read_query_and_support(
    config: PooledConfig, open_images: bool, questions: bool = False, needs_captions: bool = True
) -> tuple[SourceSplit, SourceSplit]:
    """Returns the records of the queries, and those of the support; none without a support.

    Args:
        config: The sources of queries and support.
        open_images: Whether images outside shards are opened, so that broken ones are found now.
        questions: Whether the records are questions about images, or else captioned images.
        needs_captions: Whether the images of the queries must have captions; those of the support must.

    Raises:
        UserError: If a source cannot be read.
    """
    query = read_split(config.query, config, config.query_split, open_images, QUERY_KEYS, questions, needs_captions)
    support = SourceSplit(RecordList([], {}), {}, RecordList([], {}))
    if config.support is not None:
        support = read_split(
            config.support, config.of_support, config.support_split, open_images, SUPPORT_KEYS, questions
        )
    return query, support
