"""Copies of captions: which are found, compared with a comparison of all pairs."""

import random

import pytest

from flamingo.evaluation.contamination.caption_overlap import CaptionSearch

DOG = ["a", "brown", "dog", "runs", "over", "the", "green", "grass"]


def test_equal_and_near_captions_are_told_apart():
    search = CaptionSearch(min_words=8, min_overlap=0.6)
    assert search.add(["two", "men", "sit", "on", "a", "bench", "and", "talk"])
    assert search.add(DOG)
    [equal] = search.find(DOG)
    assert (equal.number, equal.kind, equal.overlap) == (1, "equal", 1.0)
    # Of nine pairs of words each, seven are common.
    [near] = search.find(["a", "brown", "cat", "runs", "over", "the", "green", "grass"])
    assert (near.number, near.kind, near.overlap) == (1, "near", pytest.approx(7 / 11))
    assert search.find(["a", "brown", "cat", "walks", "over", "the", "green", "grass"]) == []


def test_short_captions_are_not_searched():
    search = CaptionSearch(min_words=9, min_overlap=0.6)
    assert not search.add(DOG)
    assert search.add([*DOG, "quickly"])
    assert search.find(DOG) == []


def test_the_same_pairs_of_words_in_another_order_are_near():
    search = CaptionSearch(min_words=3, min_overlap=0.9)
    search.add(["a", "b", "a", "c", "a"])
    [match] = search.find(["a", "c", "a", "b", "a"])
    assert (match.kind, match.overlap) == ("near", 1.0)


@pytest.mark.parametrize("min_overlap", [0.3, 0.5, 0.6, 1.0])
def test_the_rarest_pairs_find_what_all_pairs_find(min_overlap):
    rng = random.Random(0)
    captions = [rng.choices("abcd", k=rng.randint(3, 8)) for _ in range(60)]
    search = CaptionSearch(min_words=1, min_overlap=min_overlap)
    for caption in captions:
        search.add(caption)
    num_found = 0
    for _ in range(60):
        text = rng.choices("abcd", k=rng.randint(3, 8))
        pairs = set(zip(["", *text], [*text, ""], strict=True))
        expected = []
        for number, caption in enumerate(captions):
            others = set(zip(["", *caption], [*caption, ""], strict=True))
            if len(pairs & others) / len(pairs | others) >= min_overlap:
                expected.append(number)
        assert [match.number for match in search.find(text)] == expected
        num_found += len(expected)
    assert num_found > 0
