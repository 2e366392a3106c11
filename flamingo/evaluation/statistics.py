"""Paired statistics: differences of scores of the same queries, with bootstrap intervals, p-values and marks.

All scores of a task share one set of resamples of its queries. A resample is a vector of counts: how often it
contains each query. Scores are functions of sums over queries. Counts times per-query parts therefore give the scores
of all resamples, for per-query metrics and corpus metrics alike. CIDEr's document frequencies are those of all
references and stay fixed; BLEU follows from summed counts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm, t

from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.utils.seed_spread import student

#: The number of resamples of the queries.
NUM_RESAMPLES = 10_000
#: A difference is absent if its interval lies within this distance of 0, in the unit of the metric.
MARGIN = 0.01
#: A difference is real if its adjusted p is below this value.
SIGNIFICANCE = 0.05
#: The smallest number of queries with a value for an interval.
FEWEST_QUERIES = 30
#: The number of draws in a block, which bounds the memory of resampling.
_BLOCK_SIZE = 2**22
#: Scores that differ by less count as equal: sums of the same numbers in another order differ in their last bits.
_ROUNDING = 1e-12

Interval = tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """Scores of the same queries: of all queries, of resamples, and with each query left out. A column is a score."""

    observed: Float[np.ndarray, " scores"]
    resampled: Float[np.ndarray, "resamples scores"]
    left_out: Float[np.ndarray, "queries scores"]
    has_value: Bool[np.ndarray, "queries scores"]

    def means(self, groups: Sequence[Sequence[int]]) -> "Resampled":
        """Returns one score per group: the mean of the group's columns."""
        observed = [self.observed[list(group)].mean() for group in groups]
        resampled = [self.resampled[:, list(group)].mean(axis=1) for group in groups]
        left_out = [self.left_out[:, list(group)].mean(axis=1) for group in groups]
        has_value = [self.has_value[:, list(group)].all(axis=1) for group in groups]
        return Resampled(
            observed=np.array(observed),
            resampled=np.stack(resampled, axis=1),
            left_out=np.stack(left_out, axis=1),
            has_value=np.stack(has_value, axis=1),
        )


@dataclass(frozen=True)
class Term:
    """A score with its weight in a contrast: the mean over its seeds."""

    weight: float
    #: Its columns in :class:`Resampled`, one for each seed.
    columns: tuple[int, ...]
    #: Whether another seed would give the same score.
    fixed: bool = False


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of scores, with its 95% intervals over queries. Intervals and p are None if not estimated."""

    value: float
    percentile: Interval | None
    bca: Interval | None
    p: float | None
    #: The variance over resamples of the queries.
    variance: float
    #: The number of queries with a value in all scores.
    n: int


@dataclass(frozen=True)
class SeedEstimate:
    """The 95% interval over queries and seeds, its p-value and its degrees of freedom."""

    interval: Interval
    p: float
    freedom: float


def resample(statistics: Sequence[Statistic], num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Resampled:
    """Returns the scores of all statistics in the same resamples of their queries.

    Args:
        statistics: Scores of the same queries in the same order.
        num_resamples: The number of resamples.
        seed: The seed of the resamples, which depend only on it and on the number of queries.
    """
    num_queries = len(statistics[0].parts)
    assert all(len(statistic.parts) == num_queries for statistic in statistics)
    parts = np.hstack([statistic.parts for statistic in statistics])
    blocks = [counts @ parts for counts in _resample_counts(num_queries, num_resamples, seed)]
    total = parts.sum(axis=0)
    has_value = [statistic.parts.any(axis=1) for statistic in statistics]
    return Resampled(
        observed=_scores(statistics, total),
        resampled=_scores(statistics, np.concatenate(blocks)),
        left_out=_scores(statistics, total - parts),
        has_value=np.stack(has_value, axis=1),
    )


def _resample_counts(num_queries: int, num_resamples: int, seed: int) -> Iterator[Float[np.ndarray, "block queries"]]:
    """Yields how often each resample contains each query, in blocks of resamples."""
    rng = np.random.default_rng(seed)
    block_size = max(1, _BLOCK_SIZE // num_queries)
    for start in range(0, num_resamples, block_size):
        rows = min(block_size, num_resamples - start)
        draws = rng.integers(num_queries, size=(rows, num_queries))
        draws += num_queries * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * num_queries)
        yield counts.reshape(rows, num_queries).astype(float)


def _scores(statistics: Sequence[Statistic], sums: Float[np.ndarray, "*rows parts"]) -> Float[np.ndarray, "*rows k"]:
    """Returns the score of each statistic, from the concatenated sums of the parts of all statistics."""
    scores = []
    start = 0
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have no query with a value
        for statistic in statistics:
            end = start + statistic.parts.shape[1]
            scores.append(statistic.of_sums(sums[..., start:end]))
            start = end
    return np.stack(scores, axis=-1)


def estimate(scores: Resampled, terms: Sequence[Term]) -> Estimate:
    """Returns a weighted sum of scores with its intervals over queries.

    The intervals and p are None if fewer than FEWEST_QUERIES queries have a value in all scores, or if all paired
    differences are equal: no resample then differs, which gives no information about other queries.
    """
    columns = []
    weights = []
    for term in terms:
        for column in term.columns:
            columns.append(column)
            weights.append(term.weight / len(term.columns))
    value = float(scores.observed[columns] @ weights)
    values = scores.resampled[:, columns] @ weights
    values = values[np.isfinite(values)]
    left_out = scores.left_out[:, columns] @ weights
    n = int(scores.has_value[:, columns].all(axis=1).sum())
    if n < FEWEST_QUERIES or np.ptp(left_out) * len(left_out) < 1e3 * _ROUNDING:
        return Estimate(value=value, percentile=None, bca=None, p=None, variance=0.0, n=n)
    return Estimate(
        value=value,
        percentile=percentile_interval(values),
        bca=bca_interval(value, values, left_out),
        p=p_value(values),
        variance=float(values.var(ddof=1)),
        n=n,
    )


def percentile_interval(values: Float[np.ndarray, " resamples"]) -> Interval:
    """Returns the 95% percentile interval."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def bca_interval(
    value: float, values: Float[np.ndarray, " resamples"], left_out: Float[np.ndarray, " queries"]
) -> Interval | None:
    """Returns the 95% interval with corrections for bias and acceleration (Efron, 1987).

    Args:
        value: The score of all queries.
        values: The scores of the resamples.
        left_out: The scores with each query left out, which give the acceleration.

    Returns:
        The interval; None if all resamples lie on one side of ``value``.
    """
    bias = norm.ppf(_share_below(values, value))
    if not math.isfinite(bias):
        return None
    deviations = left_out.mean() - left_out
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    shifted = bias + norm.ppf([0.025, 0.975])
    levels = norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(values, levels)
    return float(low), float(high)


def p_value(values: Float[np.ndarray, " resamples"]) -> float:
    """Returns twice the smaller share of resamples on one side of 0: ties count half, and p is at least 2 / (R + 1)."""
    below = _share_below(values, 0.0)
    smaller = min(below, 1 - below)
    return max(2 * smaller, 2 / (len(values) + 1))


def _share_below(values: Float[np.ndarray, " resamples"], bound: float) -> float:
    """Returns the share of values below a bound. Values that are equal to it count half."""
    below = (values < bound - _ROUNDING).mean()
    equal = (abs(values - bound) <= _ROUNDING).mean()
    return float(below + equal / 2)


def over_seeds(
    of_queries: Estimate, terms: Sequence[Term], deviation: float, deviation_freedom: int
) -> SeedEstimate | None:
    """Returns the interval over new queries and new seeds: value ± t · sqrt(s²/S + v).

    s is the standard deviation of a score between seeds, S the number of seeds. For scores with different S_i and
    weights w_i, s² · sum(w_i² / S_i) replaces s²/S. v is the bootstrap variance over queries of the mean over the
    seeds, which share their queries. The degrees of freedom of t are those of Welch and Satterthwaite.

    Args:
        of_queries: The estimate over queries.
        terms: The terms of the estimate.
        deviation: s, pooled over variants.
        deviation_freedom: Its degrees of freedom.

    Returns:
        The interval; None if there is no interval over queries, or no term has two seeds.
    """
    varying = [term for term in terms if not term.fixed]
    has_seeds = any(len(term.columns) > 1 for term in varying)
    if of_queries.p is None or deviation_freedom == 0 or not has_seeds:
        return None
    seed_variance = deviation**2 * sum(term.weight**2 / len(term.columns) for term in varying)
    variance = seed_variance + of_queries.variance
    freedom = variance**2 / (seed_variance**2 / deviation_freedom + of_queries.variance**2 / (of_queries.n - 1))
    error = math.sqrt(variance)
    half = student(freedom) * error
    p = 2 * float(t.sf(abs(of_queries.value) / error, freedom))
    return SeedEstimate((of_queries.value - half, of_queries.value + half), p, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values of a family of tests, adjusted by Holm's method (1979)."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, number in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[number])
        adjusted[number] = min(1.0, largest)
    return adjusted


def mark(interval: Interval | None, adjusted_p: float | None, margin: float = MARGIN) -> str:
    """Returns "real", "absent" or "undecided".

    Args:
        interval: The 95% interval of a difference; None: not estimated.
        adjusted_p: Its p-value, adjusted for all tests of its family.
        margin: A difference of at most this size counts as none.
    """
    if interval is None or adjusted_p is None:
        return "undecided"
    if adjusted_p < SIGNIFICANCE:
        return "real"
    low, high = interval
    if -margin <= low and high <= margin:
        return "absent"
    return "undecided"
