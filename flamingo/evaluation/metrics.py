"""CIDEr and BLEU by the field's own scorers, and bootstrap intervals over queries."""

import io
import string
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Statistic:
    """A score that is a function of sums over queries, so that queries can be resampled without scoring them again."""

    parts: Float[np.ndarray, "queries parts"]
    #: From sums of ``parts`` [... parts] to scores [...].
    of_sums: Callable[[np.ndarray], np.ndarray]
    #: How many queries (or orders) the score is of.
    n: int

    @property
    def value(self) -> float:
        return float(self.of_sums(self.parts.sum(axis=0)))


def mean(values: Sequence[float | None]) -> Statistic:
    """The mean over the queries that have a value, of which there must be one at least."""
    parts = np.array([[0.0, 0.0] if value is None else [value, 1.0] for value in values])
    return Statistic(parts, lambda sums: sums[..., 0] / sums[..., 1], n=int(parts[:, 1].sum()))


def spread(statistics: Sequence[Statistic]) -> Statistic:
    """The standard deviation (n - 1 in the denominator) of several scores of the same queries."""
    sizes = np.cumsum([statistic.parts.shape[1] for statistic in statistics])[:-1]

    def of_sums(sums: np.ndarray) -> np.ndarray:
        each = zip(statistics, np.split(sums, sizes, axis=-1), strict=True)
        return np.asarray(np.std([statistic.of_sums(own) for statistic, own in each], axis=0, ddof=1))

    return Statistic(np.hstack([statistic.parts for statistic in statistics]), of_sums, n=len(statistics))


def bootstrap(statistic: Statistic, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the score over resampled queries (resamples without a value don't count)."""
    queries = len(statistic.parts)
    rng = np.random.default_rng(seed)
    # How often each query was drawn, times what it adds; one resample at a time keeps the memory small.
    sums = [
        np.bincount(rng.integers(queries, size=queries), minlength=queries) @ statistic.parts for _ in range(resamples)
    ]
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(statistic.of_sums(np.stack(sums)), [0.025, 0.975])
    return float(low), float(high)


def corpus_statistics(
    metrics: Sequence[str], outputs: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Statistic]:
    """Scores of all outputs together, against the references of each: ``CIDEr``, ``BLEU-1`` to ``BLEU-4``.

    Raises ValueError for any other name, and ImportError where pycocoevalcap is missing.
    """
    names = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
    if unknown := set(metrics) - set(names):
        raise ValueError(f"there is no corpus metric {sorted(unknown)[0]!r}; there are {', '.join(names)}")
    said = [tokenize(output) for output in outputs]
    right = [[tokenize(reference) for reference in several] for several in references]
    scores: dict[str, Statistic] = {}
    if "CIDEr" in metrics:
        scores["CIDEr"] = mean(cider(said, right).tolist())
    if any(metric.startswith("BLEU") for metric in metrics):
        counts = bleu_counts(said, right)
        for order in range(4):
            scores[names[order + 1]] = Statistic(counts, partial(_bleu_of, order), len(counts))
    return {metric: scores[metric] for metric in metrics}


def tokenize(caption: str) -> str:
    """Lower-cased words without punctuation, one blank between them."""
    return " ".join(caption.lower().translate(str.maketrans("", "", string.punctuation)).split())


def cider(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " queries"]:
    """CIDEr-D of each query, of tokenized captions; 1.0 is 100 in the papers' tables.

    Document frequencies are those of all references given here, so that scores of subsets do not
    compare, and of a single query it is 0.
    """
    scorer = _scorer("CiderScorer")
    for output, several in zip(outputs, references, strict=True):
        scorer += (output, list(several))
    return scorer.compute_score()[1]


def bleu_counts(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, "queries 10"]:
    """Of each query: words of the output, words of the closest reference, n-grams, and those that are right (n = 1..4).

    Of tokenized captions.
    """
    scorer = _scorer("BleuScorer")
    for output, several in zip(outputs, references, strict=True):
        scorer += (output, list(several))
    rows = []
    for counts in scorer.ctest:
        length = counts["testlen"]
        closest = min((abs(other - length), other) for other in counts["reflen"])[1]
        rows.append([length, closest, *counts["guess"], *counts["correct"]])
    return np.array(rows, dtype=float)


def bleu(counts: Float[np.ndarray, "*resamples 10"]) -> Float[np.ndarray, "*resamples 4"]:
    """Corpus BLEU-1 to BLEU-4 of summed :func:`bleu_counts`, with the constants of coco-caption."""
    small, tiny = 1e-9, 1e-15
    guessed, right = counts[..., 2:6], counts[..., 6:10]
    precision = np.cumprod((right + tiny) / (guessed + small), axis=-1) ** (1 / np.arange(1, 5))
    ratio = (counts[..., :1] + tiny) / (counts[..., 1:2] + small)
    return precision * np.exp(np.minimum(0, 1 - 1 / ratio))


def _bleu_of(order: int, counts: np.ndarray) -> np.ndarray:
    return bleu(counts)[..., order]


def _scorer(name: str) -> Any:
    try:
        with redirect_stdout(io.StringIO()):
            from pycocoevalcap.bleu.bleu_scorer import BleuScorer
            from pycocoevalcap.cider.cider_scorer import CiderScorer
    except ImportError as error:
        raise ImportError("CIDEr and BLEU need the package pycocoevalcap: pip install pycocoevalcap") from error
    return {"BleuScorer": BleuScorer, "CiderScorer": CiderScorer}[name](n=4)
