"""Metrics that compare outputs with the image of their query, besides its references."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.results import Row


@runtime_checkable
class ImageMetric(Protocol):
    """One metric, or several that share their work, of rows of predictions."""

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns the scores by name for each group of predictions."""
        ...
