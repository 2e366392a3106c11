"""Searches the captions of an evaluation for copies of a training text, word by word."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The kinds of copies.
EQUAL, NEAR = "equal", "near"
#: Stands before the first word and after the last one.
_EDGE = ""
#: A pair of neighbouring words.
Bigram = tuple[str, str]


@dataclass(frozen=True)
class CaptionMatch:
    """A caption of an evaluation that is equal or similar to a training text."""

    #: The number of the caption, in the order in which they were added.
    number: int
    #: EQUAL or NEAR.
    kind: str
    #: The bigrams of both texts, as a share of the bigrams of either (Jaccard); 1 for equal captions.
    overlap: float


class CaptionSearch:
    """The bigrams of the captions of an evaluation, and the captions that have each."""

    def __init__(self, min_words: int, min_overlap: float) -> None:
        """Makes a search without captions.

        Args:
            min_words: The fewest words of a caption that is searched. Shorter ones are phrases that many people write.
            min_overlap: The least overlap of near duplicates.
        """
        self.min_words, self.min_overlap = min_words, min_overlap
        self._words: list[tuple[str, ...]] = []
        self._holders: dict[Bigram, list[int]] = {}

    def add(self, words: Sequence[str]) -> bool:
        """Adds the words of a caption.

        Returns:
            Whether it is searched: captions with few words are not.
        """
        if len(words) < self.min_words:
            return False
        for bigram in _bigrams(words):
            self._holders.setdefault(bigram, []).append(len(self._words))
        self._words.append(tuple(words))
        return True

    def find(self, words: Sequence[str]) -> list[CaptionMatch]:
        """Returns all captions that are equal or similar to a text.

        A caption with the least overlap has at least that share of the text's bigrams. So it has one of any
        ``len - share + 1`` of them, and the captions that have the rarest ones are compared.
        """
        if len(words) < self.min_words:
            return []
        bigrams = _bigrams(words)
        needed = math.ceil(self.min_overlap * len(bigrams))
        by_rarity = sorted(bigrams, key=lambda bigram: len(self._holders.get(bigram, ())))
        candidates: set[int] = set()
        for bigram in by_rarity[: len(bigrams) - needed + 1]:
            candidates.update(self._holders.get(bigram, ()))
        matches = []
        for number in sorted(candidates):
            others = self._words[number]
            if others == tuple(words):
                matches.append(CaptionMatch(number, EQUAL, 1.0))
                continue
            overlap = _jaccard(bigrams, _bigrams(others))
            if overlap >= self.min_overlap:
                matches.append(CaptionMatch(number, NEAR, overlap))
        return matches


def _bigrams(words: Sequence[str]) -> set[Bigram]:
    return set(zip((_EDGE, *words), (*words, _EDGE), strict=True))


def _jaccard(one: set[Bigram], other: set[Bigram]) -> float:
    return len(one & other) / len(one | other)
