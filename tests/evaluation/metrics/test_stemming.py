"""Stems of answers: which rule applies to which word. The packages are replaced, since their data are downloads."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from flamingo.evaluation.metrics.stemming import load_stemmer
from flamingo.utils.errors import UserError

PARTS = {"dogs": "NNS", "Smiths": "NNPS", "riding": "VBG", "horses": "NNS", "runs": "VBZ", "las": "NNS"}


@pytest.fixture
def packages(monkeypatch):
    """nltk and inflection, with the functions that are used."""
    nltk, inflection = ModuleType("nltk"), ModuleType("inflection")
    nltk.data = SimpleNamespace(path=["/usr/share/nltk_data"])
    nltk.word_tokenize = str.split
    nltk.pos_tag = lambda words: [(word, PARTS.get(word, "NN")) for word in words]
    lemmas = {("riding", "v"): "ride", ("thing", "v"): "thing"}
    lemmatizer = SimpleNamespace(lemmatize=lambda word, part: lemmas[word, part])
    nltk.stem = SimpleNamespace(WordNetLemmatizer=lambda: lemmatizer)
    inflection.singularize = lambda word: word.removesuffix("s")
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    monkeypatch.setitem(sys.modules, "inflection", inflection)
    return nltk


@pytest.mark.parametrize(
    ("answer", "stems"),
    [("riding horses", "ride horse"), ("Smiths thing", "Smith thing"), ("dogs  runs", "dog runs"), ("las", "la")],
)
def test_words_have_the_stems_of_their_parts_of_speech(packages, tmp_path, answer, stems):
    assert load_stemmer(tmp_path, None)(answer) == stems
    assert packages.data.path == [str(tmp_path), "/usr/share/nltk_data"]


def test_exceptions_take_precedence(packages, tmp_path):
    file = tmp_path / "stems.csv"
    file.write_text("las,las\nriding, rid\n")
    assert load_stemmer(tmp_path, file)("las riding dogs") == "las rid dog"
    file.write_text("las\n")
    with pytest.raises(UserError, match=r"stems\.csv, line 1"):
        load_stemmer(tmp_path, file)


def test_missing_data_and_packages_are_named(packages, monkeypatch, tmp_path):
    def missing(words):
        raise LookupError("Resource punkt_tab not found")

    packages.pos_tag = missing
    with pytest.raises(UserError, match=rf"nltk_data={tmp_path}"):
        load_stemmer(tmp_path, None)
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(UserError, match="package nltk"):
        load_stemmer(tmp_path, None)
