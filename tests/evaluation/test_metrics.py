"""CIDEr and BLEU are the field's, and the intervals are those of resampled queries."""

import sys

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from flamingo.evaluation.metrics import bootstrap, corpus_statistics, mean, spread, tokenize

METRICS = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
OUTPUTS = ["A dog runs on the grass.", "two dogs play", "a red ball on a mat", "", "a cat sits on the red mat"]
REFERENCES = [
    ["a dog runs on green grass", "the dog is running"],
    ["two dogs play with a ball", "Two dogs, playing!"],
    ["a red ball lies on a mat", "red ball"],
    ["a man", "a man stands there"],
    ["a cat sits on a red mat", "one cat"],
]


def test_captions_are_lower_cased_words():
    assert tokenize(" A dog's  ball,\tred!\n") == "a dogs ball red"


def test_scores_equal_those_of_the_scorers_themselves(capsys):
    said = {i: [tokenize(output)] for i, output in enumerate(OUTPUTS)}
    right = {i: list(map(tokenize, several)) for i, several in enumerate(REFERENCES)}
    blue, _ = Bleu(4).compute_score(right, said, verbose=0)
    cider, each = Cider().compute_score(right, said)
    capsys.readouterr()
    statistics = corpus_statistics(METRICS, OUTPUTS, REFERENCES)
    assert capsys.readouterr().out == ""
    assert [statistics[m].value for m in METRICS] == pytest.approx([cider, *blue], rel=1e-9)
    assert statistics["CIDEr"].parts[:, 0] == pytest.approx(each)
    assert all(statistic.n == 5 for statistic in statistics.values())
    assert list(corpus_statistics(("BLEU-3", "CIDEr"), OUTPUTS, REFERENCES)) == ["BLEU-3", "CIDEr"]


def test_bleu_by_hand():
    """the (clipped at 2) cat: 3 of 7 words, 7 words against the closer reference of 7; bigram 'the cat' 1 of 6."""
    outputs, references = (
        ["the the the cat the the the"],
        [["the cat is on the mat now", "there is a cat on the mat today"]],
    )
    statistics = corpus_statistics(METRICS, outputs, references)
    assert statistics["BLEU-1"].value == pytest.approx(3 / 7)
    assert statistics["BLEU-2"].value == pytest.approx((3 / 7 * 1 / 6) ** 0.5)
    assert statistics["BLEU-4"].value < 1e-3
    # Too short by half: exp(1 - 4 / 2).
    short = corpus_statistics(METRICS, ["a dog"], [["a dog runs fast"]])
    assert short["BLEU-1"].value == pytest.approx(np.exp(-1))


def test_bleu_of_resampled_queries_is_bleu_of_those_queries():
    statistic = corpus_statistics(("BLEU-2",), OUTPUTS, REFERENCES)["BLEU-2"]
    drawn = [0, 0, 2, 4, 1]
    again = corpus_statistics(("BLEU-2",), [OUTPUTS[i] for i in drawn], [REFERENCES[i] for i in drawn])["BLEU-2"]
    assert float(statistic.of_sums(statistic.parts[drawn].sum(axis=0))) == pytest.approx(again.value)


def test_an_unknown_metric_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"'BLEU-5'.*CIDEr, BLEU-1"):
        corpus_statistics(("BLEU-5",), OUTPUTS, REFERENCES)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu_scorer", None)
    with pytest.raises(ImportError, match="need the package pycocoevalcap"):
        corpus_statistics(("CIDEr",), OUTPUTS, REFERENCES)


def test_the_interval_of_a_coin_is_that_of_the_binomial():
    low, high = bootstrap(mean([1.0] * 50 + [0.0] * 50))
    assert low == pytest.approx(0.4, abs=0.021) and high == pytest.approx(0.6, abs=0.021)  # 0.5 -+ 1.96 * 0.05
    assert bootstrap(mean([1.0] * 50 + [0.0] * 50)) == (low, high)
    assert bootstrap(mean([0.3] * 9)) == pytest.approx((0.3, 0.3))


def test_queries_without_a_value_count_neither_above_nor_below():
    statistic = mean([1.0, None, 4.0, None])
    assert statistic.value == 2.5 and statistic.n == 2
    low, high = bootstrap(statistic)  # some resamples hold no value at all
    assert (low, high) == (1.0, 4.0)


def test_the_spread_of_several_scores():
    scores = [mean([1.0, 3.0]), mean([2.0, None]), mean([6.0, 8.0])]
    statistic = spread(scores)
    assert statistic.value == pytest.approx(np.std([2.0, 2.0, 7.0], ddof=1)) and statistic.n == 3
    # All queries of an order move alike: nothing to resample.
    constant = spread([mean([1.0] * 5), mean([4.0] * 5)])
    assert bootstrap(constant) == pytest.approx((4.5**0.5, 4.5**0.5))
