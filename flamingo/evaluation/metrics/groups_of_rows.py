"""Scores of groups of predictions, such as both images of a pair, as means with intervals over the groups."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flamingo.evaluation.metrics.resampling import Statistic, mean
from flamingo.results import Row


def group_means(
    rows: Sequence[Row],
    group_of: Mapping[str, str],
    scores_of: Callable[[Sequence[Row]], Mapping[str, bool] | None],
    about: dict[str, Any] | None = None,
) -> dict[str, Statistic]:
    """Returns the mean of each score over the groups.

    A group's score is the value of its first row, and its other rows have none. Resamples of the rows are then, as far
    as these scores go, resamples of the groups.

    Args:
        rows: The predictions.
        group_of: Id of a query -> its group.
        scores_of: Returns the scores of a group's rows; None for a group that has none.
        about: Further fields of the scores' rows in ``scores.json``.
    """
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(group_of[row["query"]], []).append(position)
    values: dict[str, list[float | None]] = {}
    for positions in groups.values():
        scores = scores_of([rows[position] for position in positions])
        for name, score in (scores or {}).items():
            of_rows = values.setdefault(name, [None] * len(rows))
            of_rows[positions[0]] = float(score)
    return {name: mean(of_rows, about) for name, of_rows in values.items()}
