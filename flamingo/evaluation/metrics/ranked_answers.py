"""Metrics of a ranking of candidate answers, as VisDial's: NDCG, reciprocal rank, rank, and recall."""

import math
from collections.abc import Sequence

#: Ranks up to which the right answer counts.
_RECALL_RANKS = (1, 5, 10)


def ndcg(ranked: Sequence[float]) -> float | None:
    """Returns the normalized discounted cumulative gain at K, the number of relevant candidates.

    It is the gain of the first K candidates as a share of that of the best ranking. The gain of a candidate at rank r
    is its relevance divided by log2(r + 1).

    Args:
        ranked: The relevance of each candidate, the best-ranked first.

    Returns:
        The value; None if no candidate is relevant.
    """
    num_relevant = sum(relevance > 0 for relevance in ranked)
    if num_relevant == 0:
        return None
    best = sorted(ranked, reverse=True)
    return _gain(ranked[:num_relevant]) / _gain(best[:num_relevant])


def rank_metrics(rank: int) -> dict[str, float]:
    """Returns the metrics of the rank of the right answer, from 1 on: ``mrr``, ``mean_rank`` and ``recall@K``.

    Their means over queries are the mean reciprocal rank, the mean rank and the recall.
    """
    metrics = {"mrr": 1 / rank, "mean_rank": float(rank)}
    for k in _RECALL_RANKS:
        metrics[f"recall@{k}"] = float(rank <= k)
    return metrics


def _gain(relevances: Sequence[float]) -> float:
    return sum(relevance / math.log2(rank + 1) for rank, relevance in enumerate(relevances, start=1))
