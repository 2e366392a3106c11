"""CIDEr and BLEU of captions, and ROUGE-L and SPICE by the scorers of pycocoevalcap."""

import hashlib
import importlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flamingo.evaluation.metrics.cider import LONGEST, CiderCorpus, Ngram, ngram_counts
from flamingo.evaluation.metrics.corpus import Captions, merge, split
from flamingo.evaluation.metrics.resampling import Statistic, mean
from flamingo.utils.errors import UserError
from flamingo.utils.languages import primary_language


class Cider:
    """CIDEr-D, with the document frequencies of each group's references."""

    def unavailable(self, language: str) -> str | None:
        """Returns None: CIDEr is available for all languages."""
        return None

    def statistics(self, groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
        """Returns the CIDEr-D of each group."""
        statistics = []
        for group in groups:
            about = group.about()
            about["document_frequency"] = document_frequency(group.references)
            values = cider(group.outputs, group.references)
            statistics.append({"CIDEr": mean(values.tolist(), about)})
        return statistics


class Bleu:
    """BLEU-1 to BLEU-4."""

    def unavailable(self, language: str) -> str | None:
        """Returns None: BLEU is available for all languages."""
        return None

    def statistics(self, groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
        """Returns the BLEU-1 to BLEU-4 of each group."""
        statistics = []
        for group in groups:
            counts = bleu_counts(group.outputs, group.references)
            of_group = {}
            for n in range(1, 5):
                of_group[f"BLEU-{n}"] = Statistic(
                    parts=counts,
                    of_sums=partial(_bleu_n, n),
                    n=len(counts),
                    about=group.about(),
                )
            statistics.append(of_group)
        return statistics


class Rouge:
    """ROUGE-L."""

    def unavailable(self, language: str) -> str | None:
        """Returns None: ROUGE-L is available for all languages.

        Raises:
            UserError: If pycocoevalcap is not installed.
        """
        _scorer_module("rouge.rouge")
        return None

    def statistics(self, groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
        """Returns the ROUGE-L of each group."""
        statistics = []
        for group in groups:
            values = rouge(group.outputs, group.references)
            statistics.append({"ROUGE-L": mean(values, group.about())})
        return statistics


class Spice:
    """SPICE. Its Java program runs once for all groups."""

    def unavailable(self, language: str) -> str | None:
        """Returns the reason why SPICE cannot be computed; None if it can."""
        if primary_language(language) != "en":
            return f"it parses English sentences, and task.language is {language}"
        return _spice_unavailable()

    def statistics(self, groups: Sequence[Captions]) -> list[dict[str, Statistic]]:
        """Returns the SPICE of each group."""
        merged = merge(groups)
        values = spice(merged.outputs, merged.references)
        statistics = []
        for group, own_values in zip(groups, split(values, groups), strict=True):
            statistics.append({"SPICE": mean(own_values, group.about())})
        return statistics


def document_frequency(references: Sequence[Sequence[str]]) -> dict[str, int | str]:
    """Returns the corpus of CIDEr's document frequencies: numbers of images and captions, and a digest of the captions.

    The digest (16 digits of SHA-256, of tokenized captions) does not depend on their order. CIDEr values with different
    digests cannot be compared.
    """
    images = sorted(sorted(captions) for captions in references)
    num_captions = sum(len(captions) for captions in images)
    digest = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    return {
        "images": len(images),
        "captions": num_captions,
        "digest": digest[:16],
    }


def cider(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " queries"]:
    """Returns CIDEr-D of each query, from tokenized captions; 1.0 is 100 in the papers' tables.

    Document frequencies are those of all references given here. Scores of subsets can therefore not be compared, and a
    single query has 0. Resampling of queries does not change the frequencies.
    """
    corpus = CiderCorpus(references)
    values = []
    for output, captions in zip(outputs, references, strict=True):
        values.append(corpus.score(output, captions))
    return np.array(values)


def bleu_counts(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, "queries 10"]:
    """Returns the counts of each query, from tokenized captions.

    The columns are the words of the output, the words of the closest reference, the n-grams of the output for n = 1..4,
    and the number of these that occur in a reference.
    """
    rows = []
    for output, captions in zip(outputs, references, strict=True):
        rows.append(_bleu_counts(output, captions))
    return np.array(rows, dtype=float)


def _bleu_counts(output: str, references: Sequence[str]) -> list[int]:
    length = len(output.split())
    reference_lengths = [len(reference.split()) for reference in references]
    _, closest = min((abs(reference_length - length), reference_length) for reference_length in reference_lengths)
    # An n-gram counts at most as often as in the reference that has it most often.
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= ngram_counts(reference)
    num_ngrams = [max(0, length - n + 1) for n in range(1, LONGEST + 1)]
    num_correct = [0] * LONGEST
    for ngram, count in ngram_counts(output).items():
        num_correct[len(ngram) - 1] += min(count, most[ngram])
    return [length, closest] + num_ngrams + num_correct


def bleu(counts: Float[np.ndarray, "*resamples 10"]) -> Float[np.ndarray, "*resamples 4"]:
    """Returns corpus BLEU-1 to BLEU-4 of summed :func:`bleu_counts`, with the constants of coco-caption."""
    small = 1e-9
    tiny = 1e-15
    output_length = counts[..., :1]
    reference_length = counts[..., 1:2]
    num_ngrams = counts[..., 2:6]
    num_correct = counts[..., 6:10]
    precisions = (num_correct + tiny) / (num_ngrams + small)
    exponents = 1 / np.arange(1, 5)
    mean_precisions = np.cumprod(precisions, axis=-1) ** exponents
    length_ratio = (output_length + tiny) / (reference_length + small)
    brevity_penalty = np.exp(np.minimum(0, 1 - 1 / length_ratio))
    return mean_precisions * brevity_penalty


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns ROUGE-L of each query, from tokenized captions.

    The best recall and the best precision may belong to different references.
    """
    scorer = _scorer("rouge.rouge", "Rouge")
    values = []
    for output, captions in zip(outputs, references, strict=True):
        values.append(scorer.calc_score([output], captions))
    return values


def spice(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns SPICE (its F-score) of each query, from tokenized captions.

    Raises:
        RuntimeError: If SPICE is unavailable.
    """
    reason = _spice_unavailable()
    if reason is not None:  # its constructor would download missing files
        raise RuntimeError(f"SPICE is unavailable: {reason}")
    output_of = {number: [output] for number, output in enumerate(outputs)}
    references_of = {number: list(captions) for number, captions in enumerate(references)}
    with redirect_stdout(io.StringIO()):
        scorer = _scorer("spice.spice", "Spice")
        _, scores = scorer.compute_score(references_of, output_of)
    return [score["All"]["f"] for score in scores]


def _spice_unavailable() -> str | None:
    models = _scorer_module("spice.get_stanford_models")
    folder = Path(models.SPICEDIR) / "lib"
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
    if shutil.which("java") is None:
        return "there is no java"
    return None


def _bleu_n(n: int, counts: np.ndarray) -> np.ndarray:
    return bleu(counts)[..., n - 1]


def _scorer(module: str, name: str) -> Any:
    return getattr(_scorer_module(module), name)()


def _scorer_module(name: str) -> Any:
    try:
        with redirect_stdout(io.StringIO()):
            return importlib.import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise UserError("these metrics need the package pycocoevalcap: pip install pycocoevalcap") from error
