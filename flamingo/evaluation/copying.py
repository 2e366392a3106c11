"""Rows of predictions -> copy rates: how often outputs, and references of the queries, equal a demonstration's text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flamingo.evaluation.metrics.resampling import Statistic, bootstrap_each, mean
from flamingo.evaluation.metrics.rouge_l import reaches_rouge_l
from flamingo.evaluation.metrics.tokenization import Tokenize, tokenizer_of
from flamingo.evaluation.protocol import Task
from flamingo.measure_rows import COPY_RATE, EXACT, REFERENCE_RATE, ROUGE_L, Measure, save_measures
from flamingo.results import Row, setting_key, setting_of

#: The smallest ROUGE-L of a copy, and the smallest number of words of a caption that it applies to. With fewer words
#: different captions are alike by chance.
_LEAST_ROUGE_L, _LEAST_WORDS = 0.9, 5


@dataclass(frozen=True)
class _Texts:
    """The texts of a prediction. Tokens are separated by spaces."""

    output: str
    references: list[str]
    #: The captions or answers of the demonstrations, the last demonstration first.
    answers: list[str]
    #: Whether all texts are captions.
    are_captions: bool

    def answer(self, distance: int) -> str:
        """Returns the answer of the demonstration at a distance from the query; empty if there is none."""
        return self.answers[distance - 1] if distance <= len(self.answers) else ""


def save_copy_rates(file: Path, task: Task, rows: Sequence[Row]) -> None:
    """Writes the copy rates into ``in_context.json``, in place of earlier ones of the same settings.

    Args:
        file: The file.
        task: The task.
        rows: Rows of ``predictions.jsonl``.
    """
    measures = copy_rates(task, rows)
    if measures:
        save_measures(file, measures)


def copy_rates(task: Task, rows: Sequence[Row]) -> list[Measure]:
    """Returns the rates of each setting with demonstrations, by the distance of the demonstration from the query.

    The copy rate is the share of outputs that equal the caption or answer of the demonstration. The reference rate is
    the share of queries with a reference that equals it. Tokens are compared, in two parts: ``exact``, and ``ROUGE-L``
    of at least 0.9, which applies to captions of five words or more. Intervals are 95% bootstrap intervals over
    queries. Rows of other orders than the first are ignored.

    Args:
        task: The task.
        rows: Rows of ``predictions.jsonl``.

    Returns:
        No measure if the task does not measure copying, or if all demonstrations show at most one word.
    """
    if not task.measures_copying:
        return []
    tokens = cache(tokenizer_of(task.language))
    captioned = {query.id for query in task.queries() if query.prompt is None}
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["order"] == 0 and row["demonstration_answers"]:
            settings.setdefault(setting_key(row), []).append(row)
    texts_of = {}
    for setting, own_rows in settings.items():
        texts_of[setting] = [_texts(row, tokens, row["query"] in captioned) for row in own_rows]
    if not any(_has_long_answer(texts) for texts in texts_of.values()):
        return []
    measures = []
    for setting, own_rows in settings.items():
        measures += _measures(own_rows[0], texts_of[setting])
    return measures


def _texts(row: Row, tokens: Tokenize, are_captions: bool) -> _Texts:
    return _Texts(
        output=tokens(row["output"]),
        references=[tokens(reference) for reference in row["references"]],
        answers=[tokens(answer) for answer in reversed(row["demonstration_answers"])],
        are_captions=are_captions,
    )


def _has_long_answer(predictions: Sequence[_Texts]) -> bool:
    """Returns whether a demonstration shows more than one word."""
    return any(" " in answer for texts in predictions for answer in texts.answers)


def _measures(row: Row, predictions: Sequence[_Texts]) -> list[Measure]:
    """Returns the measures of the setting of a row. The intervals of all share their resamples."""
    identities: list[tuple[str, int, str]] = []
    statistics: list[Statistic] = []
    for distance in range(1, 1 + max(len(texts.answers) for texts in predictions)):
        for part, equals in _PARTS.items():
            for name in (COPY_RATE, REFERENCE_RATE):
                values = [equals(texts, name, distance) for texts in predictions]
                if any(value is not None for value in values):
                    identities.append((name, distance, part))
                    statistics.append(mean(values))
    measures = []
    intervals = bootstrap_each(statistics)
    for (name, distance, part), statistic, interval in zip(identities, statistics, intervals, strict=True):
        measure = Measure(
            setting=setting_of(row),
            seed=row["seed"],
            name=name,
            distance=distance,
            layer=None,
            part=part,
            value=statistic.value,
            ci95=interval,
            n=statistic.n,
        )
        measures.append(measure)
    return measures


def _candidates(texts: _Texts, name: str) -> list[str]:
    """Returns the texts that are compared with a demonstration."""
    return [texts.output] if name == COPY_RATE else texts.references


def _exact(texts: _Texts, name: str, distance: int) -> float | None:
    """Returns 1 if a text has the tokens of the demonstration, else 0.

    None if the demonstration has no tokens, or the query no references.
    """
    answer = texts.answer(distance)
    candidates = _candidates(texts, name)
    if not answer or not candidates:
        return None
    return float(answer in candidates)


def _nearly(texts: _Texts, name: str, distance: int) -> float | None:
    """Returns 1 if a text has a ROUGE-L of at least 0.9 with the demonstration, else 0.

    None for short captions, for answers, and for a query without references.
    """
    words = texts.answer(distance).split()
    candidates = _candidates(texts, name)
    if not texts.are_captions or len(words) < _LEAST_WORDS or not candidates:
        return None
    for candidate in candidates:
        if reaches_rouge_l(candidate.split(), words, _LEAST_ROUGE_L):
            return 1.0
    return 0.0


_PARTS: dict[str, Callable[[_Texts, str, int], float | None]] = {EXACT: _exact, ROUGE_L: _nearly}
