"""The area under the ROC curve (ROC AUC) of binary answers, with resampled queries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.inference.candidate_scores import CandidateScores
from flamingo.results import Row


@dataclass(frozen=True)
class RocAuc:
    """ROC AUC of the probability of an answer, over the queries that have a reference."""

    #: The answer that is detected.
    positive: str

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns ``roc_auc`` for each group of predictions; nothing where only one of the two answers is right."""
        statistics = []
        for rows in groups:
            labels = [self.positive in row["references"] if row["references"] else None for row in rows]
            of_group = {}
            if True in labels and False in labels:
                of_group["roc_auc"] = roc_auc(labels, [self._value(row) for row in rows])
            statistics.append(of_group)
        return statistics

    def _value(self, row: Row) -> float:
        """Returns the probability of the answer; of an output without ranking, whether it is the answer."""
        if "ranking" not in row:
            return float(row["output"] == self.positive)
        return probabilities(row["ranking"])[self.positive]


def probabilities(ranking: Mapping[str, Any]) -> dict[str, float]:
    """Returns candidate -> its probability: the softmax of the values that rank the candidates.

    Args:
        ranking: The field ``ranking`` of a row of predictions.
    """
    texts = tuple(candidate["text"] for candidate in ranking["candidates"])
    values = tuple(candidate[ranking["by"]] for candidate in ranking["candidates"])
    scores = CandidateScores(texts, (1,) * len(texts), values)
    return dict(zip(texts, scores.probabilities, strict=True))


def roc_auc(labels: Sequence[bool | None], values: Sequence[float]) -> Statistic:
    """Returns the share of pairs of a positive and a negative query in which the positive one has the larger value.

    Equal values count half.

    Args:
        labels: Whether each query is positive; None: it has no label, and does not count.
        values: The value of each query.
    """
    labelled = np.array([label is not None for label in labels])
    positive = np.array([label is True for label in labels])
    # The sums over queries are then the number of times that each query counts.
    parts = np.diag(labelled.astype(float))
    return Statistic(parts, _area(positive, np.array(values)), n=int(labelled.sum()))


def _area(
    positive: Bool[np.ndarray, " queries"], values: Float[np.ndarray, " queries"]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from counts of the queries to the area."""
    order = np.argsort(values, kind="stable")
    is_new = np.append(True, np.diff(values[order]) > 0)
    starts = np.flatnonzero(is_new)

    def of_counts(counts: np.ndarray) -> np.ndarray:
        counts = counts[..., order]
        positives = np.add.reduceat(counts * positive[order], starts, axis=-1)  # of each value, in increasing order
        negatives = np.add.reduceat(counts * ~positive[order], starts, axis=-1)
        below = np.cumsum(negatives, axis=-1) - negatives
        won = (positives * (below + negatives / 2)).sum(axis=-1)
        return np.asarray(won / (positives.sum(axis=-1) * negatives.sum(axis=-1)))

    return of_counts
