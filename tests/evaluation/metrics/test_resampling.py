"""Intervals equal those of resampled queries."""

from dataclasses import replace

import numpy as np
import pytest

from flamingo.evaluation.metrics.resampling import bootstrap, bootstrap_each, mean, spread


def test_the_interval_of_a_coin_is_that_of_the_binomial():
    low, high = bootstrap(mean([1.0] * 50 + [0.0] * 50))
    assert low == pytest.approx(0.4, abs=0.021) and high == pytest.approx(0.6, abs=0.021)  # 0.5 -+ 1.96 * 0.05
    assert bootstrap(mean([1.0] * 50 + [0.0] * 50)) == (low, high)
    assert bootstrap(mean([0.3] * 9)) == pytest.approx((0.3, 0.3))


def test_queries_without_a_value_count_neither_above_nor_below():
    statistic = mean([1.0, None, 4.0, None])
    assert statistic.value == 2.5 and statistic.n == 2
    low, high = bootstrap(statistic)  # some resamples hold no value at all
    assert (low, high) == (1.0, 4.0)


def test_the_spread_of_several_scores():
    scores = [mean([1.0, 3.0]), mean([2.0, None]), mean([6.0, 8.0])]
    statistic = spread(scores)
    assert statistic.value == pytest.approx(np.std([2.0, 2.0, 7.0], ddof=1)) and statistic.n == 3
    # All queries of an order move alike: nothing to resample.
    constant = spread([mean([1.0] * 5), mean([4.0] * 5)])
    assert bootstrap(constant) == pytest.approx((4.5**0.5, 4.5**0.5))
    assert spread([replace(score, about={"references": [1, 1]}) for score in scores]).about == {"references": [1, 1]}


def test_scores_that_share_resamples_have_the_same_intervals():
    rng = np.random.default_rng(0)
    first = mean([None if query % 7 == 0 else float(query % 3 == 0) for query in range(60)])
    second = spread([mean(rng.random(60).tolist()), mean(rng.random(60).tolist())])
    third = mean([1.0] * 60)
    for interval, statistic in zip(bootstrap_each([first, second, third]), (first, second, third), strict=True):
        assert interval == pytest.approx(bootstrap(statistic), abs=1e-12)
    assert bootstrap_each([]) == []
