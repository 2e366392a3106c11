"""What follows from the log-likelihoods of candidates, computed by hand."""

import math

import pytest

from flamingo.inference.candidate_scores import CandidateScores

#: Probabilities 1/2, 1/4 and 1/4 with the image, 1/8, 1/4 and 5/8 without it.
SCORES = CandidateScores(
    ("cat", "tiger cat", "dog"),
    (1, 2, 4),
    (-1.0, -1.0 - math.log(2), -1.0 - math.log(2)),
    (-5.0 - math.log(8), -5.0 - math.log(4), -5.0 + math.log(5 / 8)),
)


def test_ranking_by_sum_by_mean_and_against_the_prior():
    assert SCORES.ranking() == [0, 1, 2] and SCORES.best() == "cat"
    assert SCORES.means == pytest.approx((-1.0, -0.8466, -0.4233), abs=1e-4)
    assert SCORES.ranking("mean") == [2, 1, 0] and SCORES.best("mean") == "dog"
    assert SCORES.minus_prior == pytest.approx((4 + math.log(8), 4 + math.log(2), 4 - math.log(5 / 4)))
    assert SCORES.ranking("minus_prior") == [0, 1, 2]


def test_log_likelihoods_are_averaged_over_prompts():
    others = [CandidateScores(("a", "b"), (1, 2), (-1.0, -4.0), (-1.0, -2.0))]
    others.append(CandidateScores(("a", "b"), (1, 2), (-2.0, -1.0), (-3.0, -2.0)))
    average = CandidateScores.averaged(others)
    assert average == CandidateScores(("a", "b"), (1, 2), (-1.5, -2.5), (-2.0, -2.0))
    assert average.means == (-1.5, -1.25)
    assert CandidateScores.averaged(others[:1]) is others[0]


def test_equal_candidates_keep_their_order():
    scores = CandidateScores(("a", "b", "a"), (1, 1, 1), (-2.0, -3.0, -2.0))
    assert scores.ranking() == [0, 2, 1]
    assert scores.probabilities == pytest.approx((0.4223, 0.1554, 0.4223), abs=1e-4)


def test_entropy_and_divergence_of_the_softmax():
    assert SCORES.probabilities == pytest.approx((0.5, 0.25, 0.25))
    assert SCORES.entropy == pytest.approx(1.5 * math.log(2))
    # 1/2 ln 4 + 1/4 ln 1 + 1/4 ln 2/5
    assert SCORES.kl == pytest.approx(math.log(2) + 0.25 * math.log(0.4))


def test_a_candidate_that_is_impossible_has_no_probability():
    scores = CandidateScores(("a", "b"), (1, 1), (-1.0, -math.inf), (-1.0, -2.0))
    assert scores.probabilities == (1.0, 0.0) and scores.entropy == 0.0
    assert scores.kl == pytest.approx(math.log(1 + math.exp(-1)))
