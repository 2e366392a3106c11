"""Text, image and group score of Winoground: which of two captions belongs to which of two images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flamingo.evaluation.metrics.groups_of_rows import group_means
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.results import Row


@dataclass(frozen=True)
class PairScores:
    """The scores by the values that rank both captions of a pair after each of its images.

    Values of different images are compared: those of a caption after both images. The log-likelihoods log p(caption |
    image) and their differences from log p(caption) have the same order then, if both images have the same
    demonstrations.
    """

    #: Id of a query -> its pair.
    pairs: Mapping[str, str]

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns ``text_score``, ``image_score`` and ``group_score`` for each group of predictions.

        A pair without both images, or an output without a ranking, does not count.
        """
        return [group_means(rows, self.pairs, _scores_by_rankings) for rows in groups]


def pair_scores(values: Sequence[Sequence[float]]) -> dict[str, bool]:
    """Returns the scores of a pair (Thrush et al., arXiv 2204.03162, section 3.2). Equal values are not right.

    Args:
        values: For each image the values of both captions, each in the order of the pair.
    """
    (own_0, other_0), (other_1, own_1) = values
    text = own_0 > other_0 and own_1 > other_1
    image = own_0 > other_1 and own_1 > other_0
    return {"text_score": text, "image_score": image, "group_score": text and image}


def _scores_by_rankings(rows: Sequence[Row]) -> dict[str, bool] | None:
    if len(rows) != 2 or not all("ranking" in row for row in rows):
        return None
    captions = [row["references"][0] for row in rows]
    values = []
    for row in rows:
        ranking = row["ranking"]
        value_of = {candidate["text"]: candidate[ranking["by"]] for candidate in ranking["candidates"]}
        values.append([value_of[caption] for caption in captions])
    return pair_scores(values)
