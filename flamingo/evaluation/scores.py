"""Rows of predictions -> rows of scores, with intervals; no model is needed."""

import logging
from collections.abc import Sequence
from typing import Any

from flamingo.evaluation.metrics import Statistic, bootstrap, corpus_statistics, mean, spread, unavailable
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

    Raises UserError for an unknown corpus metric, and for one that the task's own metrics have, too.
    """
    missing = unavailable(corpus_metrics) if corpus_metrics else {}
    for metric, reason in missing.items():
        log.warning("%s is left out: %s", metric, reason)
    corpus_metrics = [metric for metric in corpus_metrics if metric not in missing]
    settings: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in predictions:
        settings.setdefault(key(row), {}).setdefault(row["order"], []).append(row)
    rows: list[Row] = []
    for setting, orders in settings.items():
        queries = [row["query"] for row in orders[0]]
        assert all([row["query"] for row in own] == queries for own in orders.values()), "orders of different queries"
        of_order = [_statistics(orders[order], corpus_metrics) for order in sorted(orders)]
        named = dict(of_order[0])
        if len(orders) > 1:
            for metric in of_order[0]:
                if all(metric in own for own in of_order):
                    named[f"{metric}_order_std"] = spread([own[metric] for own in of_order])
        for metric, statistic in named.items():
            row = {"metric": metric, "value": statistic.value, "ci95": list(bootstrap(statistic)), "n": statistic.n}
            rows.append({**dict(zip(KEY, setting, strict=True)), **row, **statistic.about})
    return rows


def _statistics(predictions: Sequence[Row], corpus_metrics: Sequence[str]) -> dict[str, Statistic]:
    own = sorted({metric for row in predictions for metric in row["scores"]})
    if twice := set(own) & set(corpus_metrics):
        raise UserError(f"{predictions[0]['task']} scores {sorted(twice)[0]} per query, and names it as corpus metric")
    statistics = {metric: mean([row["scores"].get(metric) for row in predictions]) for metric in own}
    if corpus_metrics:
        outputs, references = ([row[name] for row in predictions] for name in ("output", "references"))
        statistics |= corpus_statistics(corpus_metrics, outputs, references)
    return statistics
