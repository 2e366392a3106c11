"""Documents of questions: which questions, in which order, with which answers, and what is trained on."""

from collections import Counter

import pytest

from flamingo.data.builders import BUILDERS
from flamingo.data.builders.questions import Questions
from flamingo.data.document import Image, Text
from flamingo.data.records.question_record import QuestionRecord
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_kind


def record(number):
    answers = ("", f" answer {number}\n", "other", "other")
    return QuestionRecord(
        str(number), Image(f"{number}.jpg"), answers, None, f"which {number}?", None, None, ("question_id", number)
    )


SOURCE = [record(number) for number in range(12)]


def questions(seed=0, least=1, most=1, source=SOURCE, **keys):
    entry = {"kind": "questions", "min_images": least, "max_images": most, "batch_size": 1, **keys}
    return Questions(load_kind(BUILDERS, entry, "entry"), source, seed)


def test_a_document_shows_questions_and_trains_on_answers():
    image, prompt, answer = questions()[0].parts
    number = image.frames[0].removesuffix(".jpg")
    assert prompt == Text(f"Question: which {number}? Short answer:", train=False)
    assert answer == Text(" other")
    own = questions(question_template="Q:{question} A:{answer}", answer="first")[0].parts
    assert [part.text for part in own[1:]] == [f"Q:which {number}? A:", f"answer {number}"]


def test_random_answers_are_all_that_are_not_empty():
    counts = Counter(questions(answer="random", source=[record(3)])[position].parts[2].text for position in range(60))
    assert set(counts) == {" other", " answer 3"} and counts[" other"] > counts[" answer 3"]


def test_each_question_is_the_last_of_one_document_an_epoch():
    documents = [questions(least=2, most=4)[position] for position in range(24)]
    shown = [[part.frames[0] for part in document.parts if isinstance(part, Image)] for document in documents]
    assert {len(images) for images in shown} == {2, 3, 4}
    assert all(len(set(images)) == len(images) for images in shown)
    for epoch in (shown[:12], shown[12:]):
        assert len({images[-1] for images in epoch}) == 12
    assert [images[-1] for images in shown[:12]] != [images[-1] for images in shown[12:]]


def test_a_document_is_a_function_of_seed_and_position():
    first, second = questions(least=3, most=3), questions(least=3, most=3)
    assert second[5].parts == first[5].parts
    assert questions(seed=1, least=3, most=3)[5].parts != first[5].parts


def test_too_few_questions_and_wrong_keys_are_refused():
    with pytest.raises(UserError, match=r"max_images.*13.*12"):
        questions(least=1, most=13)
    with pytest.raises(UserError, match=r"entry.*answer"):
        questions(answer="last")
    with pytest.raises(UserError, match="template of questions"):
        questions(question_template="{answer}")
