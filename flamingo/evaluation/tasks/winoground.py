"""Winoground (Thrush et al., arXiv 2204.03162): two captions with the same words, ranked after each of two images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.caption_pair_record import CaptionPairRecord
from flamingo.data.records.record import Record
from flamingo.evaluation.metrics.encoder_pair_scores import EncoderPairScores
from flamingo.evaluation.metrics.pair_scores import PairScores
from flamingo.evaluation.metrics.row_metrics import RowMetric
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import WinogroundConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import PooledTask, read_query_and_support
from flamingo.utils.errors import UserError


@dataclass
class Winoground(PooledTask):
    """A query for each image. Both images of a pair have the same random demonstrations."""

    #: The value that ranks the captions: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each caption.
    end: bool = True

    @classmethod
    def from_config(cls, config: WinogroundConfig, open_images: bool = True) -> "Winoground":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read, or the queries are not pairs.
        """
        query, support = read_query_and_support(config, open_images)
        members: dict[str, list[str]] = {}
        for record in query.records:
            members.setdefault(_pair(record, config.name), []).append(record.id)
        pairs: dict[str, str] = {}
        related: dict[str, list[str]] = {}
        for pair, ids in members.items():
            for id in ids:
                pairs[id] = pair
                related[id] = [other for other in ids if other != id]
        row_metrics: list[RowMetric] = [PairScores(pairs)]
        if config.dual_encoder is not None:
            images = {record.id: record.image for record in query.records}
            row_metrics.append(EncoderPairScores(config.dual_encoder, pairs, images))
        return cls(
            config.name,
            query.records,
            Pool(drawn_records(support.records, config.support_size), related=related),
            skipped=query.skipped | support.skipped,
            language=config.language,
            row_metrics=row_metrics,
            rank_by=config.rank_by,
            end=config.end,
        )

    def rank(self, query: Example) -> Rank:
        """Returns the image's own caption and that of the other image."""
        return Rank((query.references[0], self._other_captions[query.id]), self.rank_by, self.end)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns no metrics: both images of a pair are scored together."""
        return {}

    def similar(self, query: Example, number: int) -> Sequence[Example]:
        """Raises an error: values are compared across images, after the same demonstrations.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.name} needs the same demonstrations for both images: set demonstrations=[random]")

    @cached_property
    def _other_captions(self) -> dict[str, str]:
        return {record.id: record.other_caption for record in self.query_records}  # type: ignore[attr-defined]

    def _query(self, record: Record) -> Example:
        return Example(record.id, record.image, record.captions, draw_id=_pair(record, self.name))

    def _candidate(self, record: Record) -> Example:
        return Example(record.id, record.image, record.captions)

    def _fitted(
        self, pool: Pool, processor: FlamingoProcessor, template: CaptionTemplate, max_new_tokens: int
    ) -> tuple[Pool, dict[str, str]]:
        return pool.fitting(processor, template, max_new_tokens, too_long="skip")


def _pair(record: Record, name: str) -> str:
    """Returns the id of a record's pair.

    Raises:
        UserError: If it has none.
    """
    if not isinstance(record, CaptionPairRecord):
        raise UserError(f"{name} needs pairs of images with two captions: set task.format=winoground")
    return record.pair
