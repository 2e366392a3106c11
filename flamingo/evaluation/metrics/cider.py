"""CIDEr-D of tokenized captions (Vedantam et al., arXiv 1411.5726), equal to pycocoevalcap's to the last bit."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flamingo.evaluation.metrics.tokenization import tokenizer_of
from flamingo.utils.errors import UserError

#: The length of the longest n-grams that are counted.
LONGEST = 4
#: The width, in bigrams, of the Gaussian penalty for a difference in length.
_SIGMA = 6.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class _Vector:
    """A caption's n-grams of each length, weighted by frequency and rarity."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    #: The number of its bigrams, which measures its length.
    length: int


class CiderCorpus:
    """Document frequencies of n-grams in the references of a corpus."""

    def __init__(self, references: Iterable[Iterable[str]]) -> None:
        """Counts the document frequencies.

        Args:
            references: The tokenized captions of each image.
        """
        self._frequency: Counter[Ngram] = Counter()
        self._num_images = 0
        for captions in references:
            ngrams: set[Ngram] = set()
            for caption in captions:
                ngrams.update(ngram_counts(caption))
            self._frequency.update(ngrams)
            self._num_images += 1

    def score(self, output: str, references: Sequence[str]) -> float:
        """Returns CIDEr-D of a tokenized output; 1.0 is 100 in the papers' tables."""
        vector = self._vector(output)
        similarities = np.zeros(LONGEST)
        for reference in references:
            similarities += _similarities(vector, self._vector(reference))
        return 10.0 * (float(np.mean(similarities)) / len(references))

    def _vector(self, caption: str) -> _Vector:
        log_images = np.log(float(self._num_images))
        weights: list[dict[Ngram, float]] = [{} for _ in range(LONGEST)]
        squares = [0.0] * LONGEST
        length = 0
        for ngram, count in ngram_counts(caption).items():
            n = len(ngram) - 1
            weight = count * (log_images - np.log(max(1.0, self._frequency[ngram])))
            weights[n][ngram] = weight
            squares[n] += weight**2
            if len(ngram) == 2:
                length += count
        return _Vector(weights, [math.sqrt(square) for square in squares], length)


class CiderReward:
    """CIDEr-D of captions with the document frequencies of a fixed corpus: a reward, or a measure of consensus."""

    def __init__(self, corpus: Sequence[Sequence[str]], language: str = "en") -> None:
        """Counts the document frequencies.

        Args:
            corpus: The references of each image.
            language: The language, which determines the tokens: see :mod:`flamingo.evaluation.metrics.tokenization`.

        Raises:
            UserError: For fewer than two images.
        """
        if len(corpus) < 2:
            raise UserError(f"CIDEr needs the captions of at least 2 images to weight rare words, got {len(corpus)}")
        self._tokenize = tokenizer_of(language)
        self._tokenized: dict[str, str] = {}
        self._corpus = CiderCorpus(self._references(captions) for captions in corpus)

    def __call__(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Returns the reward of each output, given its references. All of them are untokenized."""
        rewards = []
        for output, captions in zip(outputs, references, strict=True):
            rewards.append(self._corpus.score(self._tokenize(output), self._references(captions)))
        return rewards

    def _references(self, references: Sequence[str]) -> list[str]:
        for reference in references:
            if reference not in self._tokenized:
                self._tokenized[reference] = self._tokenize(reference)
        return [self._tokenized[reference] for reference in references]


def _similarities(output: _Vector, reference: _Vector) -> np.ndarray:
    """Returns the clipped cosine similarity for each length of n-grams, with the penalty for a difference in length."""
    penalty = np.e ** (-((output.length - reference.length) ** 2) / (2 * _SIGMA**2))
    similarities = np.zeros(LONGEST)
    for n in range(LONGEST):
        total = 0.0
        for ngram, weight in output.weights[n].items():
            in_reference = reference.weights[n].get(ngram, 0.0)
            total += min(weight, in_reference) * in_reference
        if output.norms[n] != 0 and reference.norms[n] != 0:
            total /= output.norms[n] * reference.norms[n]
        similarities[n] = total * penalty
    return similarities


def ngram_counts(caption: str) -> Counter[Ngram]:
    """Returns the counts of a tokenized caption's n-grams."""
    words = caption.split()
    counts: Counter[Ngram] = Counter()
    for n in range(1, LONGEST + 1):
        for start in range(len(words) - n + 1):
            counts[tuple(words[start : start + n])] += 1
    return counts
