"""Scores as functions of sums over queries, and their bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Statistic:
    """A score that is a function of sums over queries, so that resampling needs no new scoring."""

    parts: Float[np.ndarray, "queries parts"]
    #: Returns scores [...], given sums of ``parts`` [... parts].
    of_sums: Callable[[np.ndarray], np.ndarray]
    #: The number of queries (or orders) of the score.
    n: int
    #: Further fields of the score's row in ``scores.json``.
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The score of all queries."""
        sums = self.parts.sum(axis=0)
        return float(self.of_sums(sums))


def mean(values: Sequence[float | None], about: dict[str, Any] | None = None) -> Statistic:
    """Returns the mean over the queries that have a value. At least one query must have a value."""
    rows = []
    for value in values:
        if value is None:
            rows.append([0.0, 0.0])
        else:
            rows.append([value, 1.0])
    parts = np.array(rows)
    counts = parts[:, 1]
    return Statistic(
        parts=parts,
        of_sums=_quotient,
        n=int(counts.sum()),
        about=about or {},
    )


def _quotient(sums: np.ndarray) -> np.ndarray:
    total = sums[..., 0]
    count = sums[..., 1]
    return np.asarray(total / count)


def spread(statistics: Sequence[Statistic]) -> Statistic:
    """Returns the standard deviation (n - 1 in the denominator) of several scores of the same queries."""
    sizes = [statistic.parts.shape[1] for statistic in statistics]
    boundaries = np.cumsum(sizes)[:-1]

    def of_sums(sums: np.ndarray) -> np.ndarray:
        values = []
        sums_of_scores = np.split(sums, boundaries, axis=-1)
        for statistic, sums_of_score in zip(statistics, sums_of_scores, strict=True):
            values.append(statistic.of_sums(sums_of_score))
        return np.asarray(np.std(values, axis=0, ddof=1))

    parts = [statistic.parts for statistic in statistics]
    return Statistic(
        parts=np.hstack(parts),
        of_sums=of_sums,
        n=len(statistics),
        about=statistics[0].about,
    )


def bootstrap(statistic: Statistic, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Returns the 95% percentile interval over resampled queries. Resamples without a value are ignored.

    Args:
        statistic: The score.
        resamples: The number of resamples.
        seed: The seed of the resampling.
    """
    return _percentiles(statistic, _resampled_sums(statistic.parts, resamples, seed))


def bootstrap_each(statistics: Sequence[Statistic], resamples: int = 1000, seed: int = 0) -> list[tuple[float, float]]:
    """Returns the interval of each of several scores of the same queries, as :func:`bootstrap` does.

    The scores share their resamples, which takes less time.
    """
    if not statistics:
        return []
    sizes = [statistic.parts.shape[1] for statistic in statistics]
    parts = np.hstack([statistic.parts for statistic in statistics])
    sums = np.split(_resampled_sums(parts, resamples, seed), np.cumsum(sizes)[:-1], axis=-1)
    return [_percentiles(statistic, own_sums) for statistic, own_sums in zip(statistics, sums, strict=True)]


def _resampled_sums(
    parts: Float[np.ndarray, "queries parts"], resamples: int, seed: int
) -> Float[np.ndarray, "resamples parts"]:
    queries = len(parts)
    rng = np.random.default_rng(seed)
    sums = []
    for _ in range(resamples):  # one at a time keeps the memory small
        resample = rng.integers(queries, size=queries)
        counts = np.bincount(resample, minlength=queries)
        sums.append(counts @ parts)
    return np.stack(sums)


def _percentiles(statistic: Statistic, sums: Float[np.ndarray, "resamples parts"]) -> tuple[float, float]:
    """Returns the ends of the 95% interval. Resamples without a value are ignored."""
    with np.errstate(invalid="ignore"):
        values = statistic.of_sums(sums)
        low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
