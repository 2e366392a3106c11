"""Scores of captions equal those of pycocoevalcap."""

import shutil
import sys

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import spice as spice_module
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from flamingo.evaluation.metrics import meteor as meteor_module
from flamingo.evaluation.metrics.captions import document_frequency
from flamingo.evaluation.metrics.corpus import Captions, corpus_statistics, unavailable
from flamingo.evaluation.metrics.resampling import bootstrap
from flamingo.evaluation.metrics.tokenization.ptb import tokenize
from flamingo.utils.errors import UserError
from tests.helpers.captions import OUTPUTS, REFERENCES

METRICS = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")


#: With five references each, and everything that a tokenizer can get wrong.
CAPTIONS = [
    "A man's dog doesn't run.|A dog, running!|The man's T-shirt is red|Mr. Smith's dog (left)|2 dogs; 1 man...|Dogs.",
    "Two girls in the U.S.|two girls|The girls can't play|\"Girls\" play ball|Girls & boys play|They're playing",
    "|A red ball.|The ball is red|A ball lies there|One red ball at 10:30 a.m.|It's a ball",
    "A cat sits on a mat.|A cat sits on a mat.|A cat's mat|cats sat on mats|The cat|One black-and-white cat",
    "kids playing|The children play in the 1990s|A child played|Children at play, outside|Some kids|A boy plays",
]


def scored(metrics, outputs, references):
    """Of one group of captions."""
    [statistics] = corpus_statistics(metrics, [Captions(outputs, references)])
    return statistics


java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no java")


@pytest.fixture(scope="module")
def by_java():
    """Captions, and what pycocoevalcap makes of them from end to end."""
    outputs, references = [], []
    for line in CAPTIONS:
        output, *several = line.split("|")
        outputs.append(output)
        references.append(several)
    right = PTBTokenizer().tokenize({i: [{"caption": r} for r in several] for i, several in enumerate(references)})
    said = PTBTokenizer().tokenize({i: [{"caption": output}] for i, output in enumerate(outputs)})
    return outputs, references, right, said


@java
def test_scores_equal_those_of_pycocoevalcap_from_end_to_end(by_java, capsys):
    outputs, references, right, said = by_java
    values = [Cider().compute_score(right, said)[0], *Bleu(4).compute_score(right, said, verbose=0)[0]]
    values.append(Rouge().compute_score(right, said)[0])
    capsys.readouterr()
    metrics = (*METRICS, "ROUGE-L")
    statistics = scored(metrics, outputs, references)
    assert [statistics[m].value for m in metrics] == pytest.approx(values, rel=1e-9)
    assert all(statistic.about["references"] == [5, 5] for statistic in statistics.values())


@java
@pytest.mark.full
def test_meteor_equals_that_of_pycocoevalcap_for_any_queries(by_java):
    outputs, references, right, said = by_java
    statistic = scored(("METEOR",), outputs, references)["METEOR"]
    scorer = Meteor()
    for drawn in (range(5), [3], [3, 3, 0], [2, 4], [2]):
        value, each = scorer.compute_score(
            {place: right[i] for place, i in enumerate(drawn)}, {place: said[i] for place, i in enumerate(drawn)}
        )
        counts = statistic.parts[list(drawn)]
        assert float(statistic.of_sums(counts.sum(axis=0))) == pytest.approx(value, abs=1e-12)
        assert statistic.of_sums(counts) == pytest.approx(each, abs=1e-12)
    assert statistic.n == 5 and statistic.value != pytest.approx(statistic.of_sums(statistic.parts).mean(), abs=1e-3)
    low, high = bootstrap(statistic)
    assert low < statistic.value < high


def test_a_java_that_fails_is_an_error_that_says_why(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no heap >&2\nexit 3\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match=r"METEOR.*no heap"):
        meteor_module.meteor_counts(["a"], [["a"]])


def test_missing_java_or_models_are_known_and_never_downloaded(monkeypatch):
    def download():
        raise AssertionError("SPICE would be downloaded")

    monkeypatch.setattr(spice_module, "get_stanford_models", download)
    monkeypatch.setenv("PATH", "")
    reasons = unavailable(("CIDEr", "METEOR", "SPICE"))
    assert reasons.keys() == {"METEOR", "SPICE"} and reasons["METEOR"] == "there is no java"
    with pytest.raises(RuntimeError, match=r"SPICE.*(jar|java)"):
        scored(("SPICE",), OUTPUTS, REFERENCES)


def test_spice_is_its_f_score_where_it_is_installed(monkeypatch, tmp_path):
    """Tests the code around SPICE, whose models are missing on most machines."""
    (tmp_path / "lib").mkdir()
    for part in ("", "-models"):
        (tmp_path / "lib" / f"stanford-corenlp-3.6.0{part}.jar").touch()
    monkeypatch.setattr("pycocoevalcap.spice.get_stanford_models.SPICEDIR", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: name)

    class Spice:
        def compute_score(self, right, said):
            assert said == {0: ["a dog"], 1: ["cats"]} and right == {0: ["dogs"], 1: ["a cat 's", "cats"]}
            return 0.4, [{"All": {"f": 0.5, "pr": 1.0}}, {"All": {"f": 0.3, "pr": 1.0}}]

    monkeypatch.setattr(spice_module, "Spice", Spice)
    statistic = scored(("SPICE",), ["A dog!", "cats"], [["Dogs."], ["a cat's", "cats"]])["SPICE"]
    assert (
        statistic.value == pytest.approx(0.4)
        and statistic.n == 2
        and statistic.about == {"references": [1, 2], "language": "en"}
    )


def test_the_document_frequency_is_told_apart_by_its_captions():
    known = scored(("CIDEr", "BLEU-1"), OUTPUTS, REFERENCES)
    assert known["BLEU-1"].about == {"references": [2, 2], "language": "en"}
    about = known["CIDEr"].about["document_frequency"]
    assert (about["images"], about["captions"]) == (5, 10) and len(about["digest"]) == 16
    tokenized = [list(map(tokenize, several)) for several in REFERENCES]
    assert document_frequency([several[::-1] for several in tokenized[::-1]]) == about
    # The same captions of other images are counted otherwise.
    assert document_frequency([tokenized[0] + tokenized[1], *tokenized[2:]])["digest"] != about["digest"]
    other = scored(("CIDEr",), OUTPUTS, [*REFERENCES[:-1], ["a cat sits on a red mat", "one dog"]])
    assert other["CIDEr"].about["document_frequency"]["digest"] != about["digest"]


def test_scores_equal_those_of_the_scorers_themselves(capsys):
    said = {i: [tokenize(output)] for i, output in enumerate(OUTPUTS)}
    right = {i: list(map(tokenize, several)) for i, several in enumerate(REFERENCES)}
    blue, _ = Bleu(4).compute_score(right, said, verbose=0)
    cider, each = Cider().compute_score(right, said)
    capsys.readouterr()
    statistics = scored(METRICS, OUTPUTS, REFERENCES)
    assert capsys.readouterr().out == ""
    assert [statistics[m].value for m in METRICS] == pytest.approx([cider, *blue], rel=1e-9)
    assert statistics["CIDEr"].parts[:, 0] == pytest.approx(each)
    assert all(statistic.n == 5 for statistic in statistics.values())
    assert list(scored(("BLEU-3", "CIDEr"), OUTPUTS, REFERENCES)) == ["BLEU-3", "CIDEr"]


def test_bleu_by_hand():
    """the (clipped at 2) cat: 3 of 7 words, 7 words against the closer reference of 7; bigram 'the cat' 1 of 6."""
    outputs, references = (
        ["the the the cat the the the"],
        [["the cat is on the mat now", "there is a cat on the mat today"]],
    )
    statistics = scored(METRICS, outputs, references)
    assert statistics["BLEU-1"].value == pytest.approx(3 / 7)
    assert statistics["BLEU-2"].value == pytest.approx((3 / 7 * 1 / 6) ** 0.5)
    assert statistics["BLEU-4"].value < 1e-3
    # Too short by half: exp(1 - 4 / 2).
    short = scored(METRICS, ["a dog"], [["a dog runs fast"]])
    assert short["BLEU-1"].value == pytest.approx(np.exp(-1))


def test_bleu_of_resampled_queries_is_bleu_of_those_queries():
    statistic = scored(("BLEU-2",), OUTPUTS, REFERENCES)["BLEU-2"]
    drawn = [0, 0, 2, 4, 1]
    again = scored(("BLEU-2",), [OUTPUTS[i] for i in drawn], [REFERENCES[i] for i in drawn])["BLEU-2"]
    assert float(statistic.of_sums(statistic.parts[drawn].sum(axis=0))) == pytest.approx(again.value)


def test_an_unknown_metric_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(UserError, match=r"CIDEr, BLEU-1.*'BLEU-5'"):
        scored(("BLEU-5",), OUTPUTS, REFERENCES)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.rouge.rouge", None)
    for ask in (lambda: scored(("ROUGE-L",), OUTPUTS, REFERENCES), lambda: unavailable(["ROUGE-L"])):
        with pytest.raises(UserError, match="pycocoevalcap"):
            ask()
