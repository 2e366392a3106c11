"""The metrics that stand for a task: those with a plot, and the one by which settings and runs are compared."""

from collections.abc import Iterable

#: The most telling first.
HEADLINES = ("exact_match", "attribute_accuracy", "CIDEr")


def headlines(metrics: Iterable[str]) -> list[str]:
    """Returns the headline metrics of a task, the most telling first; if it has none, its first metric.

    Args:
        metrics: All metrics of the task, in the order of its scores. A metric may come several times.
    """
    names = list(dict.fromkeys(metrics))
    return [metric for metric in HEADLINES if metric in names] or names[:1]
