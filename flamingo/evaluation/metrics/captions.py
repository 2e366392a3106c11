"""Scores of captions by the field's own scorers, and bootstrap intervals over queries."""

import hashlib
import importlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flamingo.evaluation.metrics.meteor import meteor, meteor_counts
from flamingo.evaluation.metrics.meteor import unavailable as meteor_unavailable
from flamingo.evaluation.metrics.ptb import tokenize
from flamingo.utils.errors import UserError

CORPUS_METRICS = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR", "SPICE")


@dataclass(frozen=True)
class Statistic:
    """A score that is a function of sums over queries, so that queries can be resampled without scoring them again."""

    parts: Float[np.ndarray, "queries parts"]
    #: From sums of ``parts`` [... parts] to scores [...].
    of_sums: Callable[[np.ndarray], np.ndarray]
    #: How many queries (or orders) the score is of.
    n: int
    #: What the score was computed with, for its row in ``scores.json``.
    about: dict[str, Any] = field(default_factory=dict)

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

    return Statistic(
        np.hstack([statistic.parts for statistic in statistics]), of_sums, len(statistics), statistics[0].about
    )


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


#: Outputs, and the references of each.
Captions = tuple[Sequence[str], Sequence[Sequence[str]]]


def corpus_statistics(metrics: Sequence[str], *groups: Captions) -> list[dict[str, Statistic]]:
    """For each group the scores of all its outputs together: those of ``CORPUS_METRICS`` that are asked for.

    The scores equal those of pycocoevalcap, its tokenizer included. Java, which METEOR and SPICE need, starts once for
    all groups.

    Raises:
        UserError: For an unknown name, or if pycocoevalcap is not installed.
    """
    check_metrics(metrics)
    tokens = cache(tokenize)
    tokenized: list[Captions] = []
    for outputs, references in groups:
        said = [tokens(output) for output in outputs]
        tokenized.append((said, [[tokens(reference) for reference in several] for several in references]))
    by_java = {
        metric: _in_one_run(run, tokenized)
        for metric, run in (("METEOR", meteor_counts), ("SPICE", spice))
        if metric in metrics
    }
    statistics = []
    for number, group in enumerate(tokenized):
        of_group = {metric: results[number] for metric, results in by_java.items()}
        statistics.append(_statistics(metrics, *group, of_group))
    return statistics


def _statistics(
    metrics: Sequence[str], said: Sequence[str], right: Sequence[Sequence[str]], by_java: dict[str, Any]
) -> dict[str, Statistic]:
    """Of one group, tokenized; ``by_java`` has the counts of METEOR and the values of SPICE for each query."""
    about: dict[str, Any] = {"references": [min(map(len, right)), max(map(len, right))]}
    scores: dict[str, Statistic] = {}
    if "CIDEr" in metrics:
        known = about | {"document_frequency": document_frequency(right)}
        scores["CIDEr"] = replace(mean(cider(said, right).tolist()), about=known)
    if any(metric.startswith("BLEU") for metric in metrics):
        counts = bleu_counts(said, right)
        for order in range(4):
            scores[f"BLEU-{order + 1}"] = Statistic(counts, partial(_bleu_of, order), len(counts), about)
    if "ROUGE-L" in metrics:
        scores["ROUGE-L"] = replace(mean(rouge(said, right)), about=about)
    if "METEOR" in metrics:
        scores["METEOR"] = Statistic(by_java["METEOR"], meteor, len(said), about)
    if "SPICE" in metrics:
        scores["SPICE"] = replace(mean(by_java["SPICE"]), about=about)
    return {metric: scores[metric] for metric in metrics}


def _in_one_run(run: Callable[[Sequence[str], Sequence[Sequence[str]]], Any], groups: Sequence[Captions]) -> list[Any]:
    """For each group what ``run`` gives for its queries, from one call for the queries of all groups."""
    said = [output for outputs, _ in groups for output in outputs]
    right = [several for _, references in groups for several in references]
    results, start, each = run(said, right), 0, []
    for outputs, _ in groups:
        each.append(results[start : start + len(outputs)])
        start += len(outputs)
    return each


def unavailable(metrics: Sequence[str]) -> dict[str, str]:
    """Those of the corpus metrics that cannot be computed here, with the reason; nothing is ever downloaded.

    Raises UserError for a name that is no corpus metric, and if pycocoevalcap is not installed.
    """
    check_metrics(metrics)
    reasons = {}
    if "METEOR" in metrics and (reason := meteor_unavailable()):
        reasons["METEOR"] = reason
    if "SPICE" in metrics and (reason := _spice_unavailable()):
        reasons["SPICE"] = reason
    return reasons


def document_frequency(references: Sequence[Sequence[str]]) -> dict[str, int | str]:
    """What CIDEr's document frequencies were counted in: images, captions, and a digest of the tokenized captions.

    The digest (of SHA-256, 16 digits) is the same in any order. CIDEr of different digests does not compare.
    """
    images = sorted(sorted(several) for several in references)
    digest = hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16]
    return {"images": len(images), "captions": sum(map(len, images)), "digest": digest}


def cider(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " queries"]:
    """CIDEr-D of each query, of tokenized captions; 1.0 is 100 in the papers' tables.

    Document frequencies are those of all references given here, so that scores of subsets do not
    compare, and of a single query it is 0. Resampling queries leaves the frequencies as they are.
    """
    scorer = _scorer("cider.cider_scorer", "CiderScorer", n=4)
    for output, several in zip(outputs, references, strict=True):
        scorer += (output, list(several))
    return scorer.compute_score()[1]


class CiderReward:
    """CIDEr-D of captions as they come, with the document frequencies of a corpus that stays: a reward to train by."""

    def __init__(self, corpus: Sequence[Sequence[str]]) -> None:
        """``corpus``: of each image its references. Raises UserError for fewer than two images."""
        if len(corpus) < 2:
            raise UserError(f"CIDEr needs the captions of at least 2 images to tell rare words by, got {len(corpus)}")
        self._tokenized = {caption: tokenize(caption) for several in corpus for caption in several}
        scorer = _scorer("cider.cider_scorer", "CiderScorer", n=4)
        for several in corpus:
            scorer += (None, [self._tokenized[caption] for caption in several])
        scorer.compute_doc_freq()
        self._frequency, self._images = scorer.document_frequency, len(corpus)

    def __call__(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Of each output, given its references, neither of them tokenized; 1.0 is 100 in the papers' tables."""
        pairs = list(zip(outputs, references, strict=True))
        scores: list[float] = []
        for start in range(0, len(pairs), self._images):
            scorer = _scorer("cider.cider_scorer", "CiderScorer", n=4)
            for output, several in pairs[start : start + self._images]:
                scorer += (tokenize(output), [self._tokenized.get(one) or tokenize(one) for one in several])
            scorer.document_frequency = self._frequency
            # It counts the images of the corpus by these, and scores those of them that have an output.
            scorer.crefs += [[]] * (self._images - len(scorer.crefs))
            scores += map(float, scorer.compute_cider())
        return scores


def bleu_counts(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, "queries 10"]:
    """Of each query: words of the output, words of the closest reference, n-grams, and those that are right (n = 1..4).

    Of tokenized captions.
    """
    scorer = _scorer("bleu.bleu_scorer", "BleuScorer", n=4)
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


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each query, of tokenized captions: best recall and best precision may be of different references."""
    scorer = _scorer("rouge.rouge", "Rouge")
    return [scorer.calc_score([output], several) for output, several in zip(outputs, references, strict=True)]


def spice(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """SPICE (its F-score) of each query, of tokenized captions. Raises RuntimeError where it is :func:`unavailable`."""
    if reason := _spice_unavailable():  # its constructor would download what is missing
        raise RuntimeError(f"SPICE is unavailable: {reason}")
    said = {place: [output] for place, output in enumerate(outputs)}
    right = {place: list(several) for place, several in enumerate(references)}
    with redirect_stdout(io.StringIO()):
        _, scores = _scorer("spice.spice", "Spice").compute_score(right, said)
    return [score["All"]["f"] for score in scores]


def _spice_unavailable() -> str | None:
    folder = Path(_scorer_module("spice.get_stanford_models").SPICEDIR) / "lib"
    jars = [folder / f"stanford-corenlp-3.6.0{part}.jar" for part in ("", "-models")]
    if missing := [jar for jar in jars if not jar.is_file()]:
        return f"{missing[0]} is missing"
    return None if shutil.which("java") else "there is no java"


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise UserError for a name that is no corpus metric, and if the package that computes them is not installed."""
    for metric in metrics:
        if metric not in CORPUS_METRICS:
            raise UserError(f"there is no corpus metric {metric!r}: the metrics are {', '.join(CORPUS_METRICS)}")
    if metrics:
        _scorer_module("cider.cider_scorer")


def _bleu_of(order: int, counts: np.ndarray) -> np.ndarray:
    return bleu(counts)[..., order]


def _scorer(module: str, name: str, **kwargs: int) -> Any:
    return getattr(_scorer_module(module), name)(**kwargs)


def _scorer_module(name: str) -> Any:
    try:
        with redirect_stdout(io.StringIO()):
            return importlib.import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise UserError("corpus metrics need the package pycocoevalcap: pip install pycocoevalcap") from error
