"""Drills: what they let a model copy, and names of the evaluation split, which never occur."""

import random
from collections import Counter
from itertools import pairwise

from flamingo.synthetic.drills import SYLLABLES, WORDS, chant, recital
from flamingo.synthetic.scenes import split_of


def drills(drill, number=200):
    rng = random.Random(0)
    return [drill(rng) for _ in range(number)]


def test_no_drill_says_a_name_of_evaluation():
    for text in drills(chant) + drills(recital):
        for line in text.splitlines():
            assert all(split_of("name", " ".join(pair)) == "training" for pair in pairwise(line.split()))


def test_a_syllable_of_a_chant_follows_from_its_predecessor():
    following, lengths, verses, before = {}, set(), set(), {}
    for text in drills(chant):
        verses.add(text.count("\n"))
        for said in map(str.split, text.splitlines()):
            lengths.add(len(said))
            for earlier, last, syllable in zip(said, said[1:], said[2:]):
                assert following.setdefault(earlier, syllable) == syllable
                before.setdefault(syllable, set()).add(last)
    assert following.keys() == set(SYLLABLES) == set(following.values())
    assert verses == {2, 3, 4} and lengths == {*range(6, 13)}
    # The last one says little: many stand before the same syllable.
    assert sum(map(len, before.values())) / len(before) > 30


def test_a_recital_repeats_a_line_of_words_or_reverses_it():
    times, lengths, words = Counter(), set(), set()
    for text in drills(recital):
        line, *others = [tuple(line.split()) for line in text.splitlines()]
        assert len(set(line)) == len(line)
        backwards = others == [line[::-1]]
        assert backwards or set(others) == {line}
        times["backwards" if backwards else len(others)] += 1
        lengths.add(len(line))
        words |= {*line}
    assert times.keys() == {1, 2, "backwards"} and 70 < times["backwards"] < 130
    assert min(lengths) == 5 and max(lengths) == 30
    assert words == {*WORDS} > {*SYLLABLES, "small", "large", "left", "below", "one"}
