"""The headline metrics of a task: those with a plot, of which the first compares settings and runs."""

from collections.abc import Iterable

#: The most informative first.
HEADLINES = (
    "roc_auc",
    "ndcg",
    "mrr",
    "group_score",
    "text_score",
    "image_score",
    "top1_accuracy",
    "vqa_accuracy",
    "vqa_accuracy_unstemmed",
    "vl_icl_accuracy",
    "exact_match",
    "attribute_accuracy",
    "CIDEr",
)
#: The metrics whose lower values are better.
LOWER_IS_BETTER = ("CHAIRs-PTB", "CHAIRi-PTB")


def headlines(metrics: Iterable[str]) -> list[str]:
    """Returns the headline metrics of a task, the most informative first; if it has none, its first metric.

    Args:
        metrics: All metrics of the task, in the order of its scores, possibly several times.
    """
    names = list(dict.fromkeys(metrics))
    return [metric for metric in HEADLINES if metric in names] or names[:1]
