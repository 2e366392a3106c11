"""Corpus metrics of groups of queries, such as NoCaps's domains, beside those of all queries."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from flamingo.evaluation.metrics.corpus import Captions, corpus_statistics
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.results import Row


def group_statistics(
    predictions: Sequence[Sequence[Row]], corpus_metrics: Sequence[str], language: str
) -> list[dict[str, Statistic]]:
    """Returns the corpus metrics of each setting's groups of queries, by the names ``METRIC_GROUP``.

    A group is scored as if it were the whole data set: document frequencies of CIDEr are those of its references. A row
    of predictions has its group in the field ``group``.

    Args:
        predictions: The rows of each setting.
        corpus_metrics: Names of :data:`flamingo.evaluation.metrics.METRICS`.
        language: The language of the captions.
    """
    parts = []
    for setting, rows in enumerate(predictions):
        for group, positions in _positions(rows).items():
            parts.append((setting, group, positions))
    captions = []
    for setting, _, positions in parts:
        rows = [predictions[setting][position] for position in positions]
        captions.append(captions_of(rows, language))
    statistics: list[dict[str, Statistic]] = [{} for _ in predictions]
    if not captions:
        return statistics
    of_captions = corpus_statistics(corpus_metrics, captions)
    for (setting, group, positions), of_group in zip(parts, of_captions, strict=True):
        for metric, statistic in of_group.items():
            name = f"{metric}_{group.replace('-', '_')}"
            statistics[setting][name] = _among_all(statistic, positions, len(predictions[setting]))
    return statistics


def captions_of(rows: Sequence[Row], language: str) -> Captions:
    """Returns the outputs and references of rows of predictions."""
    outputs = [row["output"] for row in rows]
    references = [row["references"] for row in rows]
    return Captions(outputs, references, language)


def _positions(rows: Sequence[Row]) -> Mapping[str, list[int]]:
    """Returns group -> the positions of its rows."""
    positions: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if "group" in row:
            positions.setdefault(row["group"], []).append(position)
    return positions


def _among_all(statistic: Statistic, positions: Sequence[int], num_queries: int) -> Statistic:
    """Returns the statistic of some queries as one of all, in which the others have no value.

    All scores of a setting can then share their resamples.
    """
    parts = np.zeros((num_queries, statistic.parts.shape[1]))
    parts[list(positions)] = statistic.parts
    return replace(statistic, parts=parts)
