"""Metrics of whole rows of predictions: they read more than outputs and references, such as images and rankings."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.results import Row


@runtime_checkable
class RowMetric(Protocol):
    """One metric, or several that share their work, of rows of predictions."""

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns the scores by name for each group of predictions."""
        ...
