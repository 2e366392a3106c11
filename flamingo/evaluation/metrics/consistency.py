"""Consistency of NLVR2: the share of sentences of which all statements are answered rightly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flamingo.evaluation.metrics.groups_of_rows import group_means
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.results import Row


@dataclass(frozen=True)
class Consistency:
    """The share of sentences whose outputs are right for all their pairs of images."""

    #: Id of a query -> its sentence.
    sentences: Mapping[str, str]

    def statistics(self, groups: Sequence[Sequence[Row]]) -> list[dict[str, Statistic]]:
        """Returns ``consistency`` for each group of predictions; nothing where no query has a reference."""
        return [group_means(rows, self.sentences, _all_right) for rows in groups]


def _all_right(rows: Sequence[Row]) -> dict[str, bool] | None:
    if not all(row["references"] for row in rows):
        return None
    return {"consistency": all(row["output"] in row["references"] for row in rows)}
