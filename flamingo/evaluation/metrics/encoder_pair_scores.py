"""Text, image and group score of Winoground by a dual encoder, such as CLIP, beside those of the model."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from flamingo.data.document import Image
from flamingo.evaluation.metrics.groups_of_rows import group_means
from flamingo.evaluation.metrics.pair_scores import pair_scores
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.results import Row

#: The beginning of the names of these scores.
_PREFIX = "encoder_"


class EncoderPairScores:
    """The scores by the cosine of image and caption. They are the same in all settings."""

    def __init__(self, encoder: str, pairs: Mapping[str, str], images: Mapping[str, Image]) -> None:
        """Takes the encoder's name. It is loaded with the first scores.

        Args:
            encoder: A dual encoder: a folder or a name on the hub.
            pairs: Id of a query -> its pair.
            images: The image of each query, by the query's id.
        """
        self.name, self.pairs, self.images = encoder, pairs, images
        self._cosines: dict[tuple[str, ...], Float[Tensor, "images captions"]] = {}

    @cached_property
    def _encoder(self) -> DualEncoder:
        return DualEncoder(self.name)

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns ``encoder_text_score`` and the like for each group of predictions. Half a pair does not count."""
        about = {"encoder": self.name}
        return [group_means(rows, self.pairs, self._scores, about) for rows in groups]

    def _scores(self, rows: Sequence[Row]) -> dict[str, bool] | None:
        if len(rows) != 2:
            return None
        queries = tuple(row["query"] for row in rows)
        if queries not in self._cosines:
            images = self._encoder.image_vectors([self.images[query] for query in queries])
            captions = self._encoder.text_vectors([row["references"][0] for row in rows])
            self._cosines[queries] = images @ captions.T
        scores = pair_scores(self._cosines[queries].tolist())
        return {_PREFIX + name: score for name, score in scores.items()}
