"""Rows of predictions -> rows of scores, with intervals; no model is needed."""

import logging
from collections.abc import Sequence
from typing import Any

from flamingo.evaluation.metrics.captions import Statistic, bootstrap, corpus_statistics, mean, spread, unavailable
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

Row = dict[str, Any]
#: What a setting is told apart by, in the files of predictions and of scores alike.
KEY = ("task", "shots", "demonstrations", "control", "decoding", "seed")


def key(row: Row) -> tuple[Any, ...]:
    """The setting that a row of predictions or of scores belongs to."""
    return tuple(row[name] for name in KEY)


def scores(predictions: Sequence[Row], corpus_metrics: Sequence[str]) -> list[Row]:
    """For each setting and metric the score of order 0, and with several orders their standard deviation.

    Rows as in ``scores.json``. The interval is the 95% bootstrap interval over queries, the same for
    the same rows. A metric that no query has, or in some order none, has no row. Rows of corpus
    metrics also have ``references``, the least and most that a query has, and those of CIDEr
    ``document_frequency``, what its document frequencies were counted in: only where that is the
    same do values compare. A corpus metric that cannot be computed here is left out and logged.

    Raises:
        UserError: For an unknown corpus metric.
        ValueError: For a corpus metric whose name is that of a metric of the task's own.
    """
    corpus_metrics = computable(corpus_metrics)
    settings: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in predictions:
        settings.setdefault(key(row), {}).setdefault(row["order"], []).append(row)
    groups = [orders[order] for orders in settings.values() for order in sorted(orders)]
    statistics = iter(_statistics(groups, corpus_metrics))
    rows: list[Row] = []
    for setting, orders in settings.items():
        _check_orders(setting, orders)
        of_order = [next(statistics) for _ in orders]
        named = dict(of_order[0])
        if len(orders) > 1:
            for metric in of_order[0]:
                if all(metric in own for own in of_order):
                    named[f"{metric}_order_std"] = spread([own[metric] for own in of_order])
        for metric, statistic in named.items():
            row = {"metric": metric, "value": statistic.value, "ci95": list(bootstrap(statistic)), "n": statistic.n}
            rows.append({**dict(zip(KEY, setting, strict=True)), **row, **statistic.about})
    return rows


def _check_orders(setting: tuple[Any, ...], orders: dict[int, list[Row]]) -> None:
    """Raise UserError unless the predictions of all orders are of the same queries, and order 0 is there."""
    queries = [row["query"] for row in orders.get(0, [])]
    for order, rows in orders.items():
        if [row["query"] for row in rows] != queries:
            raise UserError(f"the predictions of {setting} in order {order} are not of the queries of order 0")


def computable(corpus_metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of the corpus metrics that can be computed here; the others are logged, with the reason.

    Raises UserError for an unknown name, and if pycocoevalcap is not installed.
    """
    missing = unavailable(corpus_metrics)
    for metric, reason in missing.items():
        log.warning("%s is left out: %s", metric, reason)
    return tuple(metric for metric in corpus_metrics if metric not in missing)


def _statistics(groups: Sequence[Sequence[Row]], corpus_metrics: Sequence[str]) -> list[dict[str, Statistic]]:
    """For each group of predictions its scores by metric: the task's own, then the corpus metrics."""
    each: list[dict[str, Statistic]] = []
    for predictions in groups:
        own = sorted({metric for row in predictions for metric in row["scores"]})
        if twice := set(own) & set(corpus_metrics):
            task = predictions[0]["task"]
            raise ValueError(f"{task} scores {sorted(twice)[0]} per query, and names it as corpus metric")
        each.append({metric: mean([row["scores"].get(metric) for row in predictions]) for metric in own})
    if corpus_metrics:
        captions = [([row["output"] for row in own], [row["references"] for row in own]) for own in groups]
        for statistics, of_corpus in zip(each, corpus_statistics(corpus_metrics, *captions), strict=True):
            statistics |= of_corpus
    return each
