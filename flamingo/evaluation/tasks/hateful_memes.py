"""HatefulMemes (Kiela et al., arXiv 2005.04790): whether a meme is hateful, by the probability of yes."""

from collections.abc import Sequence
from dataclasses import dataclass

from flamingo.evaluation.metrics.roc_auc import RocAuc
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks import HatefulMemesConfig
from flamingo.evaluation.tasks.vqa import Vqa

#: The answers, as the reader ``hateful_memes`` gives them.
_ANSWERS = ("yes", "no")


@dataclass
class HatefulMemes(Vqa):
    """Memes, of which each question has the text that is written on the meme. Yes and no are ranked."""

    #: The value that ranks yes and no: one of :data:`flamingo.inference.candidate_scores.RANKED_BY`.
    rank_by: str = "sum"
    #: Whether the token that ends a chunk follows each answer.
    end: bool = True
    #: The number of orders of the demonstrations that are averaged.
    ensembled_orders: int = 1

    @classmethod
    def from_config(cls, config: HatefulMemesConfig, open_images: bool = True) -> "HatefulMemes":  # type: ignore[override]
        """Returns the task of a config.

        Args:
            config: The sources of queries and support.
            open_images: Whether images are opened, so that broken ones are found now.

        Raises:
            UserError: If a source cannot be read.
        """
        task = super().from_config(config, open_images)
        assert isinstance(task, HatefulMemes)
        task.rank_by, task.end = config.rank_by, config.end
        task.ensembled_orders = config.ensembled_orders
        task.row_metrics = (RocAuc("yes"),)
        return task

    def rank(self, query: Example) -> Rank:
        """Returns yes and no."""
        return Rank(_ANSWERS, self.rank_by, self.end, self.ensembled_orders)

    def score(self, query: Example, prompt_examples: Sequence[Example], output: str) -> dict[str, float]:
        """Returns ``accuracy``; nothing for a meme without a label."""
        if not query.references:
            return {}
        return {"accuracy": float(output in query.references)}
