"""Stems of answers by nltk itself, with a folder of data in the layout that nltk downloads. The data have ten words."""

import json

import pytest

from flamingo.data.document import Image
from flamingo.data.records.question_record import QuestionRecord
from flamingo.evaluation.metrics.stemming import load_stemmer
from flamingo.evaluation.tasks.pool import Pool
from flamingo.evaluation.tasks.vqa import Vqa
from flamingo.utils.errors import UserError
from tests.data.shelf import write

nltk = pytest.importorskip("nltk")
pytest.importorskip("inflection")

#: The words that the tagger knows, with their parts of speech; it calls all others NN.
TAGS = {"dogs": "NNS", "Smiths": "NNPS", "riding": "VBG", "sitting": "VBG", "lying": "VBG", "runs": "VBZ", "men": "NNS"}
#: WordNet's verbs, and the verbs in -ing that its rules do not cover.
VERBS = ("ride", "run", "sit", "lie")
IRREGULAR = "lying lie\nsitting sit\n"


def tagger_and_tokenizer(folder):
    tagger = folder / "taggers" / "averaged_perceptron_tagger_eng"
    for name, content in (("weights", {}), ("tagdict", TAGS), ("classes", None)):
        # One class: without weights the tagger chooses it for any word that it does not know.
        text = json.dumps(["NN"] if content is None else content)
        write(tagger / f"averaged_perceptron_tagger_eng.{name}.json", text)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        write(folder / "tokenizers" / "punkt_tab" / "english" / name, "")


def wordnet(folder):
    """An index of verbs, and the other files, which lemmatizing opens, too."""
    lines = ["  1 This is a licence.\n"]
    for number, verb in enumerate(VERBS):
        lines.append(f"{verb} v 1 0 1 0 {number:08}  \n")
    files = {"lexnames": "00\tadj.all\t3\n", "cntlist.rev": "", "index.sense": ""}
    for part in ("adj", "adv", "noun", "verb"):
        files |= {f"index.{part}": "", f"data.{part}": "", f"{part}.exc": ""}
    files |= {"index.verb": "".join(lines), "verb.exc": IRREGULAR}
    for name, text in files.items():
        write(folder / "corpora" / "wordnet" / name, text)


def test_verbs_in_ing_and_plurals_are_stemmed_by_nltk(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    tagger_and_tokenizer(tmp_path)
    with pytest.raises(UserError, match=rf"^nltk_data={tmp_path} must have .*wordnet"):
        load_stemmer(tmp_path, None)
    wordnet(tmp_path)
    exceptions = write(tmp_path / "stems.csv", "clothing,clothes\n")
    stemmer = load_stemmer(tmp_path, exceptions)
    stems = {
        "riding": "ride",
        "a man riding dogs": "a man ride dog",
        "Smiths": "Smith",
        "runs": "runs",  # a verb that is not in -ing
        "men": "man",
        "building": "building",  # no verb of this WordNet
        "sitting, lying": "sit , lie",
        "clothing": "clothes",
        "": "",
    }
    assert {answer: stemmer(answer) for answer in stems} == stems

    answers = ("ride",) * 6 + ("sit",) * 4
    asked = QuestionRecord("1", Image("1.jpg"), answers, None, "What is he doing?", None, None, ("question_id", 1))
    task = Vqa("okvqa", [asked], Pool([]), stemmer=stemmer)
    assert task.score(task.queries()[0], [], "riding") == {"vqa_accuracy": 1.0}
