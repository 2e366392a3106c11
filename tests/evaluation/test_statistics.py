"""Each statistic in cases that are worked out by hand, and against SciPy's bootstrap."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from flamingo.evaluation import statistics
from flamingo.evaluation.metrics.captions import Bleu, Cider, bleu, bleu_counts, cider
from flamingo.evaluation.metrics.corpus import Captions
from flamingo.evaluation.metrics.resampling import mean
from flamingo.evaluation.statistics import (
    Estimate,
    Term,
    bca_interval,
    estimate,
    holm,
    mark,
    over_seeds,
    p_value,
    percentile_interval,
    resample,
)

DIFFERENCE = (Term(1.0, (0,)), Term(-1.0, (1,)))
WORDS = ("a", "dog", "runs", "cat", "sits", "on", "grass", "mat", "red", "two")


def captions(seed, number=40):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 8))) for _ in range(number)]


def test_intervals_equal_those_of_scipys_paired_bootstrap():
    rng = np.random.default_rng(3)
    ours = rng.exponential(size=40)
    others = 0.5 * ours + 2 * rng.exponential(size=40)
    found = estimate(resample([mean(ours.tolist()), mean(others.tolist())]), DIFFERENCE)

    def difference(x, y, axis):
        return x.mean(axis=axis) - y.mean(axis=axis)

    for method, interval in (("percentile", found.percentile), ("BCa", found.bca)):
        expected = bootstrap(
            (ours, others), difference, paired=True, n_resamples=10_000, method=method, rng=np.random.default_rng(8)
        )
        # The Monte Carlo error of a difference of two ends is about 0.05 standard errors.
        tolerance = 0.15 * expected.standard_error
        assert interval == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)
        assert found.variance == pytest.approx(expected.standard_error**2, rel=0.06)
    assert abs(found.bca[0] - found.percentile[0]) > 0.2 * math.sqrt(found.variance)  # skewed: the two differ
    assert found.value == pytest.approx(ours.mean() - others.mean()) and found.n == 40


def test_percentiles_by_hand():
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert percentile_interval(values) == pytest.approx((25.0, 975.0))


def test_bca_corrects_for_bias_by_hand():
    values = (np.arange(1000) + 0.5) / 1000
    symmetric = np.array([-1.0, 1.0])
    # 0.6 of the resamples lie below: z0 = 0.253347, levels Phi(2 * z0 -+ 1.959964).
    low, high = bca_interval(0.6, values, symmetric)
    assert low == pytest.approx(0.07307, abs=1e-3) and high == pytest.approx(0.99318, abs=1e-3)
    assert bca_interval(2.0, values, symmetric) is None


def test_bca_corrects_for_acceleration_by_hand():
    values = (np.arange(1000) + 0.5) / 1000
    # Deviations 1/4, 1/4, 1/4, -3/4: cubes sum to -0.375, squares to 0.75, a = -0.375 / (6 * 0.75 ** 1.5) = -0.096225.
    low, high = bca_interval(0.6, values, np.array([0.0, 0.0, 0.0, 1.0]))
    assert low == pytest.approx(0.03684, abs=1e-3) and high == pytest.approx(0.98115, abs=1e-3)


def test_p_is_twice_the_smaller_share_with_ties_half():
    assert p_value(np.array([-1.0, -2.0, 0.0, 1e-16, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 * 0.3)
    assert p_value(-np.array([-1.0, -2.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 * 0.3)
    assert p_value(np.zeros(9)) == 1.0
    assert p_value(np.ones(10_000)) == p_value(-np.ones(10_000)) == 2 / 10_001


def test_holms_method_by_hand():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, which may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("interval", "adjusted_p", "expected"),
    [
        ((0.02, 0.08), 0.049, "real"),
        ((0.001, 0.009), 0.049, "real"),  # small, but not absent
        ((0.001, 0.009), 0.05, "absent"),
        ((-0.01, 0.01), 1.0, "absent"),
        ((-0.011, 0.009), 1.0, "undecided"),
        ((-0.009, 0.011), 1.0, "undecided"),
        ((0.02, 0.08), 0.051, "undecided"),
        (None, 0.001, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_marks(interval, adjusted_p, expected):
    assert mark(interval, adjusted_p, margin=0.01) == expected


@pytest.mark.parametrize("constant", [0.0, 0.1, 1.0])
def test_equal_paired_differences_have_no_interval(constant):
    values = np.random.default_rng(0).random(500)
    found = estimate(resample([mean((values + constant).tolist()), mean(values.tolist())]), DIFFERENCE)
    assert found.value == pytest.approx(constant)
    assert (found.percentile, found.bca, found.p, found.n) == (None, None, None, 500)


def test_ties_count_half_where_a_single_query_differs():
    values = [0.1] * 100
    found = estimate(resample([mean([0.9, *values[1:]]), mean(values)]), DIFFERENCE)
    # A resample misses the query with a chance of 0.99 ** 100 = 0.366: half of these lie below 0.
    assert found.p == pytest.approx(0.366, abs=0.02)
    assert found.percentile[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("number", "known"), [(29, False), (30, True)])
def test_fewer_than_30_queries_with_both_values_have_no_interval(number, known):
    rng = np.random.default_rng(1)
    ours = rng.random(40).tolist()
    others = [None] * (40 - number) + rng.random(number).tolist()
    found = estimate(resample([mean(ours), mean(others)]), DIFFERENCE)
    assert found.n == number
    for statistic in (found.percentile, found.bca, found.p):
        assert (statistic is not None) == known
    assert found.value == pytest.approx(np.mean(ours) - np.mean(others[-number:]))


def test_corpus_metrics_of_a_resample_are_those_of_its_captions():
    references = [[text, other] for text, other in zip(captions(1), captions(2))]
    groups = [Captions(captions(3), references), Captions(captions(4), references)]
    scored = [Bleu().statistics([group])[0]["BLEU-2"] for group in groups]
    scored += [Cider().statistics([group])[0]["CIDEr"] for group in groups]
    scores = resample(scored, num_resamples=3, seed=5)
    [counts] = statistics._resample_counts(40, 3, 5)
    assert (counts.sum(axis=1) == 40).all() and (counts > 1).any()
    for resample_counts, found in zip(counts.astype(int), scores.resampled):
        drawn = np.repeat(np.arange(40), resample_counts)
        for column, group in enumerate(groups):
            outputs = [group.outputs[query] for query in drawn]
            counts_of_bleu = bleu_counts(outputs, [references[query] for query in drawn])
            assert found[column] == pytest.approx(bleu(counts_of_bleu.sum(axis=0))[1])
            # Document frequencies stay those of all references.
            assert found[2 + column] == pytest.approx(cider(group.outputs, references)[drawn].mean())
    rest = [query for query in range(40) if query != 7]
    outputs = [groups[0].outputs[query] for query in rest]
    counts_of_bleu = bleu_counts(outputs, [references[query] for query in rest])
    assert scores.left_out[7, 0] == pytest.approx(bleu(counts_of_bleu.sum(axis=0))[1])


def test_resamples_depend_neither_on_other_scores_nor_on_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    one, other = (mean(rng.random(50).tolist()) for _ in range(2))
    together = resample([one, other], num_resamples=70)
    alone = resample([other], num_resamples=70)
    assert together.resampled[:, 1] == pytest.approx(alone.resampled[:, 0], abs=1e-15)
    monkeypatch.setattr(statistics, "_BLOCK_SIZE", 400)  # 8 resamples at a time
    assert (resample([one, other], num_resamples=70).resampled == together.resampled).all()


def test_a_term_is_the_mean_over_its_seeds():
    rng = np.random.default_rng(2)
    values = rng.random((3, 60))
    found = estimate(resample([mean(row.tolist()) for row in values]), (Term(2.0, (0, 1)), Term(-1.0, (2,))))
    direct = estimate(resample([mean((values[0] + values[1]).tolist()), mean(values[2].tolist())]), DIFFERENCE)
    assert found.value == pytest.approx(direct.value)
    assert found.bca == pytest.approx(direct.bca) and found.p == direct.p
    means = resample([mean(row.tolist()) for row in values]).means([(0, 1), (2,)])
    of_means = estimate(means, (Term(2.0, (0,)), Term(-1.0, (1,))))
    assert of_means.bca == pytest.approx(direct.bca) and of_means.n == 60


def of_queries(value=0.05, variance=1e-4, n=101):
    return Estimate(value=value, percentile=(0.0, 0.1), bca=(0.0, 0.1), p=0.5, variance=variance, n=n)


def test_the_interval_over_seeds_by_hand():
    terms = (Term(1.0, (0, 1)), Term(-1.0, (2, 3, 4, 5)))
    found = over_seeds(of_queries(), terms, 0.02, 4)
    # 0.02 ** 2 * (1 / 2 + 1 / 4) = 3e-4, and 1e-4 of the queries.
    freedom = 4e-4**2 / (3e-4**2 / 4 + 1e-4**2 / 100)
    assert found.freedom == pytest.approx(freedom) == pytest.approx(7.0796, abs=1e-3)
    half = 2.3591 * 0.02
    assert found.interval == pytest.approx((0.05 - half, 0.05 + half), abs=1e-5)
    assert found.p == pytest.approx(0.0406, abs=1e-4)  # of |t| = 2.5; with 7 degrees of freedom 0.0410


def test_a_score_that_no_seed_changes_adds_no_spread():
    terms = (Term(1.0, (0, 1)), Term(-1.0, (2,), fixed=True))
    found = over_seeds(of_queries(variance=1e-6, n=1001), terms, 0.02, 4)
    freedom = 2.01e-4**2 / (2e-4**2 / 4 + 1e-6**2 / 1000)
    assert found.freedom == pytest.approx(freedom)


def test_there_is_no_interval_over_one_seed():
    assert over_seeds(of_queries(), DIFFERENCE, 0.02, 4) is None
    fixed = (Term(1.0, (0,)), Term(-1.0, (1, 2), fixed=True))
    assert over_seeds(of_queries(), fixed, 0.02, 4) is None
    two = (Term(1.0, (0, 1)), Term(-1.0, (2,)))
    assert over_seeds(of_queries(), two, 0.0, 0) is None
    unknown = Estimate(value=0.1, percentile=None, bca=None, p=None, variance=0.0, n=20)
    assert over_seeds(unknown, two, 0.02, 4) is None
