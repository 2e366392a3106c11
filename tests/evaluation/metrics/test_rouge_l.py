"""ROUGE-L equals that of pycocoevalcap, and the shortcuts of a limit change nothing."""

import random

import pytest
from pycocoevalcap.rouge.rouge import Rouge

from flamingo.evaluation.metrics.rouge_l import reaches_rouge_l, rouge_l

WORDS = ("a", "dog", "runs", "on", "grass")


def test_rouge_l_equals_that_of_pycocoevalcap():
    rng = random.Random(0)
    for _ in range(300):
        candidate, reference = (rng.choices(WORDS, k=rng.randint(1, 9)) for _ in range(2))
        value = rouge_l(candidate, reference)
        assert value == pytest.approx(Rouge().calc_score([" ".join(candidate)], [" ".join(reference)]), abs=1e-12)
        for least in (0.3, 0.6, 0.9):
            assert reaches_rouge_l(candidate, reference, least) == (value >= least)
    assert rouge_l(WORDS, WORDS) == pytest.approx(1) and rouge_l([], WORDS) == rouge_l(WORDS, []) == 0
    assert rouge_l(WORDS[:2], WORDS) != rouge_l(WORDS, WORDS[:2])
