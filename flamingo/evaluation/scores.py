"""Rows of predictions -> rows of scores, with intervals; no model is needed."""

from collections.abc import Sequence
from typing import Any

from flamingo.evaluation.metrics import Statistic, bootstrap, corpus_statistics, mean, spread

Row = dict[str, Any]
#: What a setting is told apart by, in the files of predictions and of scores alike.
KEY = ("task", "shots", "demonstrations", "control", "decoding", "seed")


def key(row: Row) -> tuple[Any, ...]:
    """The setting that a row of predictions or of scores belongs to."""
    return tuple(row[name] for name in KEY)


def scores(predictions: Sequence[Row], corpus_metrics: Sequence[str]) -> list[Row]:
    """For each setting and metric the score of order 0, and with several orders their standard deviation.

    Rows as in ``scores.json``. The interval is the 95% bootstrap interval over queries, the same for
    the same rows. A metric that no query has, or in some order none, has no row. Raises ValueError
    for an unknown corpus metric, and for one that the task's own metrics have, too.
    """
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
            rows.append({**dict(zip(KEY, setting, strict=True)), **row})
    return rows


def _statistics(predictions: Sequence[Row], corpus_metrics: Sequence[str]) -> dict[str, Statistic]:
    own = sorted({metric for row in predictions for metric in row["scores"]})
    if twice := set(own) & set(corpus_metrics):
        raise ValueError(f"{predictions[0]['task']} scores {sorted(twice)[0]} per query, and names it as corpus metric")
    statistics = {metric: mean([row["scores"].get(metric) for row in predictions]) for metric in own}
    if corpus_metrics:
        outputs, references = ([row[name] for row in predictions] for name in ("output", "references"))
        statistics |= corpus_statistics(corpus_metrics, outputs, references)
    return statistics
