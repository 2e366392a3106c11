"""Rows of predictions -> rows of scores, with intervals. No model is needed."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flamingo.evaluation.group_scores import captions_of, group_statistics
from flamingo.evaluation.metrics.corpus import corpus_statistics, unavailable
from flamingo.evaluation.metrics.resampling import Statistic, bootstrap, mean, spread
from flamingo.evaluation.metrics.row_metrics import RowMetric
from flamingo.results import SETTING, Row, setting_key
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


#: Setting -> its statistics by metric, in a dict for each order of the demonstrations, order 0 first.
SettingStatistics = dict[tuple[Any, ...], list[dict[str, Statistic]]]


def scores(predictions: Sequence[Row], corpus_metrics: Sequence[str], language: str = "en") -> list[Row]:
    """Returns the rows of ``scores.json``: see :func:`setting_statistics` and :func:`score_rows`."""
    return score_rows(setting_statistics(predictions, corpus_metrics, language))


def setting_statistics(
    predictions: Sequence[Row],
    corpus_metrics: Sequence[str],
    language: str = "en",
    row_metrics: Sequence[RowMetric] = (),
) -> SettingStatistics:
    """Returns the statistics of each setting. A metric that no query of an order has is left out there.

    A corpus metric that is unavailable is left out and logged.

    Args:
        predictions: Rows of ``predictions.jsonl``.
        corpus_metrics: Names of metrics of all outputs of a setting together.
        language: The language of the captions, which determines the tokens that corpus metrics compare.
        row_metrics: Metrics of whole rows of predictions, such as those that read images.

    Raises:
        UserError: For an unknown corpus metric.
        ValueError: For a corpus metric with the name of a metric of the task.
    """
    corpus_metrics = computable(corpus_metrics, language)
    settings: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in predictions:
        orders = settings.setdefault(setting_key(row), {})
        orders.setdefault(row["order"], []).append(row)
    groups = []
    for setting, orders in settings.items():
        _check_orders(setting, orders)
        groups += [orders[order] for order in sorted(orders)]
    of_groups = _statistics(groups, corpus_metrics, language)
    for metric in row_metrics:
        for of_group, of_metric in zip(of_groups, metric.statistics(groups), strict=True):
            of_group.update(of_metric)
    statistics = iter(of_groups)
    return {setting: [next(statistics) for _ in orders] for setting, orders in settings.items()}


def score_rows(statistics: SettingStatistics) -> list[Row]:
    """Returns for each setting and metric the score of order 0, and the standard deviation over several orders.

    The rows are those of ``scores.json``. The interval is the 95% bootstrap interval over queries, equal for equal
    rows. A metric that no query has, or that no query of some order has, has no row. Rows of corpus metrics also have
    ``references``, the smallest and the largest number per query, and ``language``. Rows of CIDEr have
    ``document_frequency``, the corpus of its document frequencies: only values with an equal corpus can be compared.
    """
    rows = []
    for setting, per_order in statistics.items():
        for metric, statistic in _with_spread(per_order):
            rows.append(_score_row(setting, metric, statistic))
    return rows


def _with_spread(per_order: Sequence[Mapping[str, Statistic]]) -> Iterator[tuple[str, Statistic]]:
    """Yields the statistics of order 0, and the standard deviation over orders of each metric that all orders have."""
    first = per_order[0]
    yield from first.items()
    if len(per_order) == 1:
        return
    for metric in first:
        if all(metric in statistics for statistics in per_order):
            of_metric = [statistics[metric] for statistics in per_order]
            yield f"{metric}_order_std", spread(of_metric)


def _score_row(setting: tuple[Any, ...], metric: str, statistic: Statistic) -> Row:
    row = dict(zip(SETTING, setting, strict=True))
    row["metric"] = metric
    row["value"] = statistic.value
    row["ci95"] = list(bootstrap(statistic))
    row["n"] = statistic.n
    row.update(statistic.about)
    return row


def _check_orders(setting: tuple[Any, ...], orders: dict[int, list[Row]]) -> None:
    """Checks that there is order 0, and that the predictions of all orders have the same queries.

    Raises:
        UserError: If not.
    """
    first_queries = [row["query"] for row in orders.get(0, [])]
    for order, rows in orders.items():
        queries = [row["query"] for row in rows]
        if queries != first_queries:
            raise UserError(f"the predictions of {setting} in order {order} are not of the queries of order 0")


def computable(corpus_metrics: Sequence[str], language: str = "en") -> tuple[str, ...]:
    """Returns the corpus metrics that are available here for the language. Logs the reason for the others.

    Raises:
        UserError: For an unknown name, or if pycocoevalcap is not installed.
    """
    missing = unavailable(corpus_metrics, language)
    for metric, reason in missing.items():
        log.warning("%s is left out: %s", metric, reason)
    return tuple(metric for metric in corpus_metrics if metric not in missing)


def _statistics(
    groups: Sequence[Sequence[Row]], corpus_metrics: Sequence[str], language: str
) -> list[dict[str, Statistic]]:
    """Returns the statistics of each group of predictions by metric: the task's own, then the corpus metrics."""
    statistics = [_task_statistics(predictions, corpus_metrics) for predictions in groups]
    if not corpus_metrics:
        return statistics
    captions = [captions_of(predictions, language) for predictions in groups]
    of_captions = corpus_statistics(corpus_metrics, captions)
    for of_group, of_corpus in zip(statistics, of_captions, strict=True):
        of_group.update(of_corpus)
    of_parts = group_statistics(groups, corpus_metrics, language)
    for of_group, of_part in zip(statistics, of_parts, strict=True):
        of_group.update(of_part)
    return statistics


def _task_statistics(predictions: Sequence[Row], corpus_metrics: Sequence[str]) -> dict[str, Statistic]:
    """Returns the means of the task's own metrics.

    Raises:
        ValueError: If a metric of the task has the name of a corpus metric.
    """
    metrics: set[str] = set()
    for row in predictions:
        metrics.update(row["scores"])
    ambiguous = sorted(metrics & set(corpus_metrics))
    if ambiguous:
        task = predictions[0]["task"]
        raise ValueError(f"{task} scores {ambiguous[0]} per query, and names it as corpus metric")
    statistics = {}
    for metric in sorted(metrics):
        values = [row["scores"].get(metric) for row in predictions]
        statistics[metric] = mean(values)
    return statistics
