"""VQA accuracy: its traps one by one, and the official figures on real answers.

The last test reads VizWiz's validation answers in OpenFlamingo's format from the folder that the environment variable
``VQA_ANSWERS`` names, and is skipped without it.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from flamingo.evaluation.metrics.vqa import processed, vqa_accuracy
from flamingo.utils.reading import read_json

REAL = os.environ.get("VQA_ANSWERS")


@pytest.mark.parametrize("agreeing, accuracy", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_each_answer_is_left_out_once(agreeing, accuracy):
    answers = ["dog"] * agreeing + [f"cat {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("dog", answers) == pytest.approx(accuracy)


def test_equal_answers_are_told_apart_by_position():
    assert vqa_accuracy("dog", ["dog"] * 9 + ["cat"]) == 1
    assert vqa_accuracy("dog", ["dog"] * 2 + ["cat"] * 8) == pytest.approx(0.6)  # 0 if equal answers vanish together


def test_nothing_is_processed_where_all_answers_are_equal():
    assert vqa_accuracy("Dog.", ["dog"] * 10) == 0
    assert vqa_accuracy("dog", ["Dog."] * 10) == 0
    assert vqa_accuracy(" dog\n", ["\tdog"] * 10) == 1
    assert vqa_accuracy("Dog.", ["dog"] * 9 + ["a cat"]) == 1


@pytest.mark.parametrize(
    "answer, form",
    [
        ("A red Car.", "red car"),
        ("the an a", ""),
        ("none", "0"),
        ("Ten two eleven", "10 2 eleven"),
        ("dont", "don't"),
        ("couldn'tve couldnt've couldntve", "couldn't've couldn't've couldntve"),
        ("somebody'd", "somebodyd"),
        ("Im Ive", "im ive"),  # the official list has these with capitals, after capitals are gone
        ("red/blue", "red blue"),
        ("red/ blue", "red blue"),
        ("red/blue /green", "redblue green"),  # one slash at a space takes the space from all
        ("1,000 men-at-arms", "1000 menatarms"),  # so does a comma between digits from all punctuation
        ("a,b", "b"),
        ("1.5", "1.5"),
        ("1. 5", "1 5"),
        ("v2.", "v2"),
        ("two.", "2"),
        (".5 p.m.", ".5 pm"),
        ("don't 'so'", "don't 'so'"),
        ("50% #1: $3 & more", "50% #1: $3 & more"),
        ("one\ntwo\tthree", "1 2 3"),
        ("." * 40, "." * 8),  # at most 32 periods are removed
    ],
)
def test_answers_are_processed_as_by_the_official_code(answer, form):
    assert processed(answer) == form


@pytest.mark.skipif(REAL is None, reason="VQA_ANSWERS names no folder")
def test_real_answers_have_the_official_accuracies():
    questions = read_json(Path(REAL) / "vizwiz_val_annotations.json.gz")["annotations"]
    answers = [[answer["answer"] for answer in question["answers"]] for question in questions]
    majority = [Counter(of_question).most_common(1)[0][0] for of_question in answers]
    messy = [f"The {answer.upper()}." for answer in majority]
    for outputs, official in ((majority, 94.11), (messy, 86.75), (["unanswerable"] * len(answers), 52.12)):
        accuracies = list(map(vqa_accuracy, outputs, answers))
        assert round(100 * sum(accuracies) / len(accuracies), 2) == official
