"""NDCG and the metrics of a rank, on rankings that are computed by hand."""

import math

import pytest

from flamingo.evaluation.metrics.ranked_answers import ndcg, rank_metrics


def test_ndcg_looks_at_as_many_candidates_as_are_relevant():
    # K is 3: the fourth place, with relevance 1, does not count.
    gain = 0.4 + 0 + 0.2 / math.log2(4)
    best = 1 + 0.4 / math.log2(3) + 0.2 / math.log2(4)
    assert ndcg([0.4, 0.0, 0.2, 1.0, 0.0]) == pytest.approx(gain / best)
    assert ndcg([1.0, 0.4, 0.2, 0.0, 0.0]) == 1
    assert ndcg([0.0, 0.0, 1.0]) == 0


def test_ndcg_needs_a_relevant_candidate():
    assert ndcg([0.0, 0.0]) is None


@pytest.mark.parametrize(("rank", "recalls"), [(1, (1, 1, 1)), (5, (0, 1, 1)), (6, (0, 0, 1)), (11, (0, 0, 0))])
def test_metrics_of_a_rank(rank, recalls):
    expected = {"mrr": 1 / rank, "mean_rank": rank}
    expected |= {f"recall@{k}": recall for k, recall in zip((1, 5, 10), recalls, strict=True)}
    assert rank_metrics(rank) == expected
