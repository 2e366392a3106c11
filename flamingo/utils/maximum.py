"""The last position of a maximum."""

from collections.abc import Sequence


def last_maximum(values: Sequence[int] | Sequence[float]) -> int:
    """Returns the position of the largest value, of equal ones the last."""
    return max(range(len(values)), key=lambda position: (values[position], position))
