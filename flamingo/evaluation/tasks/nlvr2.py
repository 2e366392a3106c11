"""NLVR2 (Suhr et al., arXiv 1811.00491): whether a statement about two photographs is true."""

from collections.abc import Sequence
from dataclasses import dataclass

from flamingo.data.question_template import QuestionTemplate
from flamingo.data.readers.nlvr2 import ANSWERS, sentence_of
from flamingo.evaluation.metrics.consistency import Consistency
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import Nlvr2Config
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import read_query_and_support
from flamingo.evaluation.tasks.question_task import QuestionTask
from flamingo.utils.errors import UserError


@dataclass
class Nlvr2(QuestionTask):
    """Statements about two images each. True and false are ranked."""

    #: The value that ranks the answers: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each answer.
    end: bool = True

    @classmethod
    def from_config(cls, config: Nlvr2Config, open_images: bool = True) -> "Nlvr2":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read, or is not NLVR2's.
        """
        query, support = read_query_and_support(config, open_images, questions=True)
        for record in [*query.records, *support.records]:
            if len(record.images) != 2:
                raise UserError(f"{config.name}: {record.id} has {len(record.images)} images: set task.format=nlvr2")
        return cls(
            config.name,
            query.records,
            Pool(drawn_records(support.records, config.support_size)),
            skipped=query.skipped | support.skipped,
            language=config.language,
            row_metrics=(Consistency({record.id: sentence_of(record.id) for record in query.records}),),
            template=QuestionTemplate(config.question_template),
            rank_by=config.rank_by,
            end=config.end,
        )

    def rank(self, query: Example) -> Rank:
        """Returns true and false."""
        return Rank(ANSWERS, self.rank_by, self.end)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``accuracy``; nothing for a statement without a label."""
        if not query.references:
            return {}
        return {"accuracy": float(output in query.references)}

    def similar(self, query: Example, number: int) -> Sequence[Example]:
        """Raises an error: similarity compares single images.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.name} has two images in each example: set demonstrations=[random]")

    def nearest(self, query: Example, examples: Sequence[Example]) -> Example:
        """Raises an error: similarity compares single images.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.name} has two images in each example: leave nearest_caption out of controls")
