"""HatefulMemes (Kiela et al., arXiv 2005.04790): whether a meme is hateful, by the probability of yes."""

from collections.abc import Sequence
from dataclasses import dataclass

from flamingo.data.question_template import QuestionTemplate
from flamingo.evaluation.metrics.roc_auc import RocAuc
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import HatefulMemesConfig
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.pooled_task import read_query_and_support
from flamingo.evaluation.tasks.question_pooled_task import QuestionPooledTask

#: The answers, as the reader ``hateful_memes`` gives them.
_ANSWERS = ("yes", "no")


@dataclass
class HatefulMemes(QuestionPooledTask):
    """Memes, of which each question has the text that is written on the meme. Yes and no are ranked."""

    #: The value that ranks yes and no: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each answer.
    end: bool = True
    #: The number of orders of the demonstrations that are averaged.
    ensembled_orders: int = 1

    @classmethod
    def from_config(cls, config: HatefulMemesConfig, open_images: bool = True) -> "HatefulMemes":
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read.
        """
        query, support = read_query_and_support(config, open_images, questions=True)
        return cls(
            config.name,
            query.records,
            Pool(drawn_records(support.records, config.support_size)),
            skipped=query.skipped | support.skipped,
            language=config.language,
            row_metrics=(RocAuc("yes"),),
            template=QuestionTemplate(config.question_template),
            shown_answer=config.shown_answer,
            rank_by=config.rank_by,
            end=config.end,
            ensembled_orders=config.ensembled_orders,
        )

    def rank(self, query: Example) -> Rank:
        """Returns yes and no."""
        return Rank(_ANSWERS, self.rank_by, self.end, self.ensembled_orders)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``accuracy``; nothing for a meme without a label."""
        if not query.references:
            return {}
        return {"accuracy": float(output in query.references)}
