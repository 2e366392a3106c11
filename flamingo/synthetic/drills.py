"""Drills: meaningless texts from which a small language model learns to copy from its context.

Two heads together copy a name ("induction heads", arXiv 2209.11895): one attends to the previous word, the other
finds an earlier occurrence of the same word. Trigrams of natural text train the first head. Synthetic captions have
hardly any trigrams, and without the first head the second one has no gradient. A chant trains only the first head, a
recital both. A reversed recital asks for the word before another word, as questions do: "a small red star ... what
size is the star?". Two neighbouring words are never a name of the evaluation split.
"""

import random
from collections.abc import Sequence
from itertools import chain, pairwise, product

from flamingo.synthetic.grammar import NUMBERS, PLACES, SIZE_WORDS
from flamingo.synthetic.scenes import split_of

#: The syllables of names.
SYLLABLES = [consonant + vowel for consonant, vowel in product("BDFGKLMNPRSTVZ", "aeiou")]

#: Words of recitals: syllables, and all answers that are not names. Without recitals of "small" and "large" their
#: embeddings became equal (cosine 0.998), and no question about them was answered.
WORDS = list(chain(SYLLABLES, *SIZE_WORDS, NUMBERS, *PLACES.values()))

#: The seed of the order of syllables: another text changes the order.
_STREAM = "chant"
#: A fixed order of all syllables; the first one follows the last one.
_ROUND = random.Random(_STREAM).sample(SYLLABLES, len(SYLLABLES))
_NEXT = dict(zip(_ROUND, _ROUND[1:] + _ROUND[:1], strict=True))


def chant(rng: random.Random) -> str:
    """Returns verses of two alternating voices that follow the round: each syllable determines the next but one."""
    verses = []
    for _ in range(rng.randint(2, 4)):
        # Long verses almost always have a name of the evaluation split.
        length = rng.randint(6, 12)
        verse: list[str] = []
        while not verse or not _is_of_training(verse):
            verse = rng.choices(SYLLABLES, k=2)
            while len(verse) < length:
                verse.append(_NEXT[verse[-2]])
        verses.append(" ".join(verse) + "\n")
    return "".join(verses)


def recital(rng: random.Random) -> str:
    """Returns a line of different words, repeated once or twice, or followed by its reversal."""
    length = rng.randint(5, 30)
    line = [rng.choice(WORDS)]
    while len(line) < length:
        word = rng.choice(WORDS)
        # Neither direction may have a name of the evaluation split.
        if word not in line and _is_of_training([line[-1], word, line[-1]]):
            line.append(word)
    lines = [line]
    if rng.random() < 0.5:
        lines.append(line[::-1])
    else:
        lines += [line] * rng.randint(1, 2)
    return "".join(" ".join(words) + "\n" for words in lines)


def _is_of_training(words: Sequence[str]) -> bool:
    """Returns whether no two neighbouring words are a name of the evaluation split."""
    return all(split_of("name", f"{first} {second}") == "training" for first, second in pairwise(words))
