"""Classification: images with one label each, whose classes are ranked by their likelihoods after the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.class_labels import labelled, read_class_names
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.record import Record, RecordList
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import ClassificationConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import PooledTask, read_query_and_support

#: The length of the beginning of a ranking that has to contain the label.
_TOP = 5
#: The key of the names of classes, which errors name.
_KEY = "task.class_names"


@dataclass
class Classification(PooledTask):
    """Labelled images. The candidates of each query are all classes of queries and support.

    Classes with the same name are one class.
    """

    #: The value that ranks the classes: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each class.
    end: bool = True
    #: The number of orders of the demonstrations that are averaged.
    ensembled_orders: int = 1
    #: The names of all classes.
    classes: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: ClassificationConfig, open_images: bool = True) -> "Classification":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images outside shards are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read, an image has several labels, or a label has no name.
        """
        names = None if config.class_names is None else read_class_names(Path(config.class_names), _KEY)
        query, support = read_query_and_support(config, open_images)
        queries = [labelled(record, names, _KEY) for record in query.records]
        pool = [labelled(record, names, _KEY) for record in support.records]
        classes = {record.captions[0] for record in queries + pool}
        if names is not None:
            classes |= set(names.values())
        return cls(
            config.name,
            RecordList(queries, query.skipped),
            Pool(drawn_records(RecordList(pool, support.skipped), config.support_size)),
            skipped=query.skipped | support.skipped,
            language=config.language,
            rank_by=config.rank_by,
            end=config.end,
            ensembled_orders=config.ensembled_orders,
            classes=tuple(sorted(classes)),
        )

    def rank(self, query: Example) -> Rank:
        """Returns all classes."""
        return self._rank

    @cached_property
    def _rank(self) -> Rank:
        return Rank(self.classes, self.rank_by, self.end, self.ensembled_orders)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``top1_accuracy``."""
        return {"top1_accuracy": float(output in query.references)}

    def score_ranking(self, query: Example, candidates: Sequence[str]) -> dict[str, float]:
        """Returns ``top5_accuracy`` where there are more than 5 classes."""
        if len(candidates) <= _TOP:
            return {}
        return {"top5_accuracy": float(query.references[0] in candidates[:_TOP])}

    def _query(self, record: Record) -> Example:
        return Example(record.id, record.image, record.captions, group=record.group)

    def _candidate(self, record: Record) -> Example:
        return Example(record.id, record.image, record.captions)

    def _fitted(
        self, pool: Pool, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int
    ) -> tuple[Pool, dict[str, str]]:
        return pool.fitting(processor, template, max_new_tokens, too_long="skip")
