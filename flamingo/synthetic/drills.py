"""Drills: words without a meaning, from which a small language model learns to copy from its context.

To copy a name two heads must work together: one that looks at the word before, and one that finds where
the same word stood earlier ("induction heads", arXiv 2209.11895). In books the first arises from
trigrams, of which synthetic captions have hardly any; without it neither earns anything. A chant rewards
the first alone, a recital the two together. One that goes backwards asks what stood before a word, as
questions do: "a small red star ... what size is the star?". Two neighbours are never a name that
evaluation holds out.
"""

import random
from collections.abc import Sequence
from itertools import chain, pairwise

from flamingo.synthetic.grammar import NUMBERS, PLACES, SIZE_WORDS
from flamingo.synthetic.scenes import split_of

#: What names are made of.
SYLLABLES = [consonant + vowel for consonant in "BDFGKLMNPRSTVZ" for vowel in "aeiou"]

#: What is recited: also the answers that no name stands for. "small" and "large" ended with the same embedding
#: (cosine 0.998) when nothing but questions told them apart, and then no question did.
WORDS = [*SYLLABLES, *chain(*SIZE_WORDS), *NUMBERS, *chain(*PLACES.values())]

#: A fixed round of all syllables.
_ROUND = random.Random("chant").sample(SYLLABLES, len(SYLLABLES))
_NEXT = dict(pairwise([*_ROUND, _ROUND[0]]))


def chant(rng: random.Random) -> str:
    """Verses of two voices in turn, each along the round: a syllable follows from the one before the last."""
    verses = []
    for _ in range(rng.randint(2, 4)):
        # Short: of long ones few say no name of evaluation, and those could be known by heart.
        length = rng.randint(6, 12)
        verse: list[str] = []
        while not verse or not _of_training(verse):
            verse = rng.choices(SYLLABLES, k=2)
            while len(verse) < length:
                verse.append(_NEXT[verse[-2]])
        verses.append(" ".join(verse) + "\n")
    return "".join(verses)


def recital(rng: random.Random) -> str:
    """A line of different words, once or twice over, or once backwards."""
    length = rng.randint(5, 30)
    line = [rng.choice(WORDS)]
    while len(line) < length:
        word = rng.choice(WORDS)
        # In both directions.
        if word not in line and _of_training((line[-1], word, line[-1])):
            line.append(word)
    again = [line[::-1]] if rng.random() < 0.5 else [line] * rng.randint(1, 2)
    return "".join(" ".join(words) + "\n" for words in [line, *again])


def _of_training(said: Sequence[str]) -> bool:
    return all(split_of("name", " ".join(pair)) == "training" for pair in pairwise(said))
