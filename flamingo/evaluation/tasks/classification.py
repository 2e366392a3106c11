"""Classification: images with one label each, whose classes are ranked by their likelihoods after the prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.record import Record, RecordList
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import ClassificationConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import PooledTask, read_query_and_support
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json

#: The length of the beginning of a ranking that has to contain the label.
_TOP = 5


@dataclass
class Classification(PooledTask):
    """Labelled images. The candidates of each query are all classes of queries and support.

    Classes with the same name are one class.
    """

    #: The value that ranks the classes: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each class.
    end: bool = True
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
        names = None if config.class_names is None else _class_names(Path(config.class_names))
        query, support = read_query_and_support(config, open_images)
        queries = [_labelled(record, names) for record in query.records]
        pool = [_labelled(record, names) for record in support.records]
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
            classes=tuple(sorted(classes)),
        )

    def rank(self, query: Example) -> Rank:
        """Returns all classes."""
        return self._rank

    @cached_property
    def _rank(self) -> Rank:
        return Rank(self.classes, self.rank_by, self.end)

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


def _class_names(file: Path) -> dict[str, str]:
    """Returns id of a class -> its name. Ids have a space for each ``_``, as the names of class folders.

    Raises:
        UserError: If the file is not a JSON object of texts.
    """
    names = read_json(file)
    if not isinstance(names, dict) or not names:
        raise UserError(f"task.class_names={file} must be a JSON object: id of a class -> its name")
    by_label = {}
    for id, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"task.class_names={file}: the name of {id!r} must be a text that is not empty")
        by_label[id.replace("_", " ")] = name.strip()
    return by_label


def _labelled(record: Record, names: Mapping[str, str] | None) -> Record:
    """Returns the record with the name of its class as its only caption.

    Raises:
        UserError: If it has several captions, or its label has no name.
    """
    if len(record.captions) > 1:
        raise UserError(f"{record.id} has {len(record.captions)} captions: a labelled image has one label")
    if names is None:
        return record
    [label] = record.captions
    name = names.get(label, names.get(label.replace("_", " ")))
    if name is None:
        raise UserError(f"{record.id}: task.class_names has no name of {label!r}")
    return replace(record, captions=(name,))
