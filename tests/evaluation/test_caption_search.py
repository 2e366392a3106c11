"""Search among generated captions, computed by hand."""

import math

import pytest

from flamingo.evaluation.caption_search import caption_similarities

pytest.importorskip("sklearn")


def test_cosines_weigh_words_by_the_training_captions():
    training = ["a dog", "A cat."]
    found = caption_similarities(["A dog!", "a bird"], ["a dog", "a cat", "a bird bird"], training)
    a, dog, bird = 1.0, math.log(3 / 2) + 1, math.log(3 / 1) + 1  # no training caption has a bird
    length = math.hypot
    expected = [
        [1, a / (a + dog**2), a / length(a, dog) / length(a, 2 * bird)],
        [
            a / length(a, bird) / length(a, dog),
            a / length(a, bird) / length(a, dog),
            (a + 2 * bird**2) / length(a, bird) / length(a, 2 * bird),
        ],
    ]
    for row, values in zip(found, expected, strict=True):
        assert row == pytest.approx(values)
