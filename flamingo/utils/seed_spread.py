"""The standard deviation of a score between seeds, pooled over variants, and Student's t."""

import math
from collections.abc import Sequence
from statistics import fmean

from scipy import stats


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Returns the standard deviation within groups, pooled over all of them, and its degrees of freedom.

    It is assumed to be the same in all groups: two seeds of one variant would give almost no information.

    Args:
        groups: The scores of each variant, one per seed.

    Returns:
        The deviation and its degrees of freedom; both are 0 if no group has two scores.
    """
    freedom = 0
    squares = 0.0
    for group in groups:
        if group:
            mean = fmean(group)
            freedom += len(group) - 1
            squares += sum((value - mean) ** 2 for value in group)
    if freedom == 0:
        return 0.0, 0
    return math.sqrt(squares / freedom), freedom


def student(freedom: int | float) -> float:
    """Returns the bound of |t| with a probability of 95%, for these degrees of freedom."""
    return float(stats.t.ppf(0.975, freedom))
