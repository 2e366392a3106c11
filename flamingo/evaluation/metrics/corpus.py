"""Metrics of all outputs of a setting together, computed by name on tokenized captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from flamingo.evaluation.metrics import METRICS
from flamingo.evaluation.metrics.resampling import Statistic
from flamingo.evaluation.metrics.tokenization import Tokenize, tokenizer_of
from flamingo.utils.checks import one_of

Rows = TypeVar("Rows", list[float], np.ndarray)


@dataclass(frozen=True)
class Captions:
    """The outputs of a setting, and the references of each output."""

    outputs: Sequence[str]
    references: Sequence[Sequence[str]]
    #: The language, which determines the tokens: see :mod:`flamingo.evaluation.metrics.tokenization`.
    language: str = "en"

    def about(self) -> dict[str, Any]:
        """Returns the fields that all metrics report: the range of references per output, and the language."""
        counts = [len(references) for references in self.references]
        return {"references": [min(counts), max(counts)], "language": self.language}


@runtime_checkable
class Metric(Protocol):
    """One corpus metric, or several that share their counts. It is constructed without arguments."""

    def unavailable(self, language: str) -> str | None:
        """Returns the reason why the metric cannot be computed in this language; None if it can. Downloads nothing.

        Raises:
            UserError: If the package that computes it is not installed.
        """
        ...

    def statistics(self, groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
        """Returns the scores by name for each group of tokenized captions."""
        ...


def corpus_statistics(metrics: Sequence[str], groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
    """Returns the metrics of all outputs together, for each group.

    The scores of English captions equal those of pycocoevalcap, including its tokenizer. Each metric's class is called
    once for all groups, so that Java, which METEOR and SPICE need, starts once.

    Raises:
        UserError: For an unknown name, or if pycocoevalcap is not installed.
    """
    check_metrics(metrics)
    tokenized = _tokenized(groups)
    by_class = {location: _make(location).statistics(tokenized) for location in _locations(metrics)}
    statistics = []
    for number in range(len(groups)):
        of_group = {metric: by_class[METRICS[metric]][number][metric] for metric in metrics}
        statistics.append(of_group)
    return statistics


def unavailable(metrics: Sequence[str], language: str = "en") -> dict[str, str]:
    """Returns the metrics that cannot be computed here for captions in this language, with the reason.

    Raises:
        UserError: For an unknown name, or if pycocoevalcap is not installed.
    """
    for metric in metrics:
        one_of("a corpus metric", metric, METRICS)
    reasons = {}
    for metric in metrics:
        reason = _make(METRICS[metric]).unavailable(language)
        if reason is not None:
            reasons[metric] = reason
    return reasons


def check_metrics(metrics: Sequence[str]) -> None:
    """Checks the names of metrics.

    Raises:
        UserError: For an unknown name, or if pycocoevalcap is not installed.
    """
    unavailable(metrics)


def merge(groups: Sequence[Captions]) -> Captions:
    """Returns the captions of all groups as one group."""
    outputs: list[str] = []
    references: list[Sequence[str]] = []
    for group in groups:
        outputs += group.outputs
        references += group.references
    return Captions(outputs, references, groups[0].language)


def split(rows: Rows, groups: Sequence[Captions]) -> list[Rows]:
    """Returns the rows of each group, from the rows of the merged groups."""
    parts = []
    start = 0
    for group in groups:
        end = start + len(group.outputs)
        parts.append(rows[start:end])
        start = end
    return parts


def _locations(metrics: Sequence[str]) -> list[str]:
    """Returns the classes of the metrics, each once."""
    return list(dict.fromkeys(METRICS[metric] for metric in metrics))


def _make(location: str) -> Metric:
    """Returns the metric of a "module:Class"."""
    module, _, name = location.partition(":")
    return getattr(import_module(module), name)()


def _tokenized(groups: Sequence[Captions]) -> list[Captions]:
    tokenizers: dict[str, Tokenize] = {}
    tokenized = []
    for group in groups:
        tokens = tokenizers.setdefault(group.language, cache(tokenizer_of(group.language)))
        outputs = [tokens(output) for output in group.outputs]
        references = []
        for of_output in group.references:
            references.append([tokens(reference) for reference in of_output])
        tokenized.append(Captions(outputs, references, group.language))
    return tokenized
