"""Captioning: queries and demonstrations from records of captioned images."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.record import Record
from flamingo.data.sources import read_split
from flamingo.evaluation.metrics.chair import Chair, ObjectWords, objects_in_images, singularizer
from flamingo.evaluation.metrics.clip_score import ClipScore
from flamingo.evaluation.metrics.corpus import check_metrics
from flamingo.evaluation.metrics.row_metrics import RowMetric
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.scores import computable
from flamingo.evaluation.selection import CAPTION, SUM
from flamingo.evaluation.tasks import CaptioningConfig, ChairConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import SUPPORT_KEYS, read_query_and_support
from flamingo.evaluation.tasks.text_pooled_task import TextPooledTask
from flamingo.evaluation.text_retrieval import image_caption_similarities
from flamingo.inference.vector_store import VectorStore
from flamingo.utils.errors import UserError
from flamingo.utils.languages import primary_language

log = logging.getLogger(__name__)


@dataclass
class Captioning(TextPooledTask):
    """Captions of the query records; demonstrations come from a pool of captioned images."""

    text_similarities: ClassVar[tuple[str, ...]] = (CAPTION, SUM)
    #: The action for captions of the pool that are too long: see :func:`flamingo.data.fitting.fitting`.
    too_long: str = "cut"
    #: One of :data:`flamingo.evaluation.tasks.CAPTION_CHOICES`.
    shown_caption: str = "random"
    #: METEOR and SPICE are left out if their requirements are not installed, and for other languages than English.
    corpus_metrics: tuple[str, ...] = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR", "SPICE")

    @classmethod
    def from_config(cls, config: CaptioningConfig, open_images: bool = True) -> "Captioning":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support, and the metrics.
            open_images: Whether images that a file of captions names are opened, so that broken ones are found now.

        Raises:
            UserError: For an unknown metric, or if a source cannot be read.
        """
        check_metrics(config.metrics)  # before reading, which may take minutes
        query, support = read_query_and_support(config, open_images, needs_captions=False)
        skipped = query.skipped | support.skipped
        other_pools = {}
        for name, source in config.other_supports.items():
            keys = replace(SUPPORT_KEYS, root=f"task.other_supports.{name}")
            other = read_split(source, config.of_support, config.support_split, open_images, keys)
            pool = Pool(drawn_records(other.records, config.support_size), name)
            skipped |= {pool.name_of(id): reason for id, reason in other.skipped.items()}
            other_pools[name] = pool
        return cls(
            config.name,
            query.records,
            Pool(drawn_records(support.records, config.support_size)),
            other_pools,
            skipped,
            too_long=config.too_long,
            shown_caption=config.shown_caption,
            language=config.language,
            corpus_metrics=_corpus_metrics(config, query.records),
            row_metrics=_row_metrics(config, query.records),
        )

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns no metrics: captions are scored all together, by ``corpus_metrics``."""
        return {}

    def submission(self, outputs: Mapping[str, str]) -> list[dict[str, int | str]]:
        """Returns the rows of a file of results in the format of COCO; none for data without ids for such a file.

        Args:
            outputs: Id of a query -> the output.
        """
        rows: list[dict[str, int | str]] = []
        for record in self.query_records:
            if record.id in outputs and record.image_id is not None:
                rows.append({"image_id": record.image_id, "caption": outputs[record.id].strip()})
        return rows

    def _query(self, record: Record) -> Example:
        return Example(record.id, record.image, record.captions, group=record.group)

    def _candidate(self, record: Record) -> Example:
        captions = record.captions if self.shown_caption == "random" else record.captions[:1]
        return Example(record.id, record.image, captions)

    def _text_blocks(self, vectors: VectorStore | None) -> Iterator[Float[Tensor, "_ pool"]]:
        if vectors is None:
            raise UserError(f"{self.name}: similarities of images and captions need a dual encoder: set rices_encoder")
        images = [query.image for query in self._queries]
        captions = [candidate.references for candidate in self._candidates]
        return image_caption_similarities(images, captions, vectors)

    def _fitted(
        self, pool: Pool, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int
    ) -> tuple[Pool, dict[str, str]]:
        return pool.fitting(processor, template, max_new_tokens, self.too_long)


def _corpus_metrics(config: CaptioningConfig, queries: Sequence[Record]) -> tuple[str, ...]:
    """Returns the metrics of the config that are available; none without captions of the queries, which is logged."""
    if any(record.captions for record in queries):
        return computable(config.metrics, config.language)
    log.warning("%s: the queries have no captions, so that %s have no value", config.name, ", ".join(config.metrics))
    return ()


def _row_metrics(config: CaptioningConfig, queries: Sequence[Record]) -> list[RowMetric]:
    """Returns CLIPScore and CHAIR, as far as the config has what they need.

    Raises:
        UserError: If a file of CHAIR or the package inflection is missing, or CHAIR is asked of another language.
    """
    metrics: list[RowMetric] = []
    if config.clip_score is not None:
        metrics.append(ClipScore(config.clip_score, {record.id: record.image for record in queries}))
    if config.chair.synonyms is not None:
        if primary_language(config.language) != "en":
            raise UserError(f"chair finds English words, and task.language is {config.language}")
        metrics.append(_chair(config.chair, [record.id for record in queries]))
    return metrics


def _chair(config: ChairConfig, queries: Sequence[str]) -> Chair:
    assert config.instances is not None and config.synonyms is not None and config.double_words is not None
    words = ObjectWords(Path(config.synonyms), Path(config.double_words), singularizer())
    return Chair(words, objects_in_images(Path(config.instances), words, queries))
