"""Visual question answering: prompts, demonstrations, accuracies by type, and submissions."""

import numpy as np
import pytest

from flamingo import FlamingoProcessor
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Image
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import QuestionRecord
from flamingo.data.records.record import RecordList
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import RecordTask, RetrievalTask, SubmissionTask, Task
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.tasks.pool import Pool
from flamingo.evaluation.tasks.vqa import Vqa
from flamingo.utils.errors import UserError


def record(id, question, answers, question_type=None, answer_type=None):
    return QuestionRecord(
        str(id), Image(f"{id}.jpg"), tuple(answers), None, question, question_type, answer_type, ("question_id", id)
    )


QUERIES = [record(1, "What is it?", ["cat"] * 10), record(2, "Is it?", ["yes"] * 10)]
POOL = [record(10 + number, f"Which {number}?", ["one", f"answer {number}", f"answer {number}"]) for number in range(6)]
NEIGHBOURS = np.array([[4, 2, 5, 1, 0], [3, 5, 4, 1, 2]])


def task(duplicates=None, **arguments):
    pool = Pool(POOL, neighbours=NEIGHBOURS, duplicates=duplicates or {})
    return Vqa("questions", QUERIES, pool, **arguments)


def rendered(task, setting):
    query = task.queries()[0]
    return render_prompt(build_prompt(query, prompt_examples(task, query, setting), setting.with_images))


def test_it_is_a_task_of_records_with_submissions():
    for protocol in (Task, RetrievalTask, RecordTask, SubmissionTask):
        assert isinstance(task(), protocol)


def test_prompts_show_questions_with_their_majority_answers():
    assert rendered(task(), Setting(0, None)) == "<image>Question: What is it? Short answer:"
    assert rendered(task(), Setting(2, "rices")) == (
        "<image>Question: Which 2? Short answer: answer 2<|endofchunk|>"
        "<image>Question: Which 4? Short answer: answer 4<|endofchunk|>"
        "<image>Question: What is it? Short answer:"
    )
    assert "<image>" not in rendered(task(), Setting(0, "text_only")).removesuffix(rendered(task(), Setting(0, None)))


def test_template_and_shown_answer_are_keys():
    own = task(template=QuestionTemplate("Q:{question} A:{answer}"), shown_answer="first")
    assert rendered(own, Setting(1, "rices")) == "<image>Q:Which 4? A:one<|endofchunk|><image>Q:What is it? A:"


def test_braces_in_a_question_stay():
    template = QuestionTemplate("{question} Answer: {answer}")
    assert (
        template.filled("Is {answer} or {question}?", "{question}") == "Is {answer} or {question}? Answer: {question}"
    )


@pytest.mark.parametrize("text", ["{question}", "{answer}", "{question} {answer}.", "{question}{question} {answer}"])
def test_a_template_needs_a_question_and_an_answer_at_its_end(text):
    with pytest.raises(UserError, match="template of questions"):
        QuestionTemplate(text)


def test_random_demonstrations_are_drawn_as_in_captioning():
    query = task().queries()[0]
    shown = prompt_examples(task(duplicates={"1": frozenset({0, 1})}), query, Setting(4, "random"))
    assert {example.id for example in shown} == {"12", "13", "14", "15"}
    assert len({prompt_examples(task(), query, Setting(1, "random", seed=seed))[0].id for seed in range(20)}) > 3


def answers(*counts):
    """Ten answers: so many of each."""
    texts = []
    for text, count in counts:
        texts += [text] * count
    return texts


#: id, question type, answer type, answers, output, and its accuracy by hand.
TWELVE = [
    (1, "is this", "yes/no", answers(("yes", 10)), "yes", 1),
    (2, "is this", "yes/no", answers(("yes", 10)), "Yes", 0),  # ten equal answers: nothing is processed
    (3, "is this", "yes/no", answers(("yes", 9), ("no", 1)), "Yes.", 1),
    (4, "is this", "yes/no", answers(("yes", 8), ("no", 2)), "no", 0.6),
    (5, "how many", "number", answers(("2", 5), ("two", 4), ("3", 1)), "two", 1),  # nine 2
    (6, "how many", "number", answers(("1,000", 1), ("1000", 1), ("few", 8)), "1000", 0.6),
    (7, "how many", "number", answers(("none", 3), ("1", 7)), "0", 0.9),
    (8, "how many", "number", answers(("4", 10)), "4", 1),
    (9, "what color", "other", answers(("the red", 2), ("red", 1), ("blue", 7)), "a red", 0.9),
    (10, "what color", "other", answers(("dark/red", 1), ("blue", 9)), "dark red", 0.3),
    (11, "what color", "other", answers(("dont know", 4), ("blue", 6)), "don't know", 1),
    (12, "what color", "other", answers(("blue", 9), ("green", 1)), "a bluish", 0),
]


def test_twelve_questions_have_the_accuracies_of_their_types():
    records = [
        record(id, "?", texts, question_type, answer_type) for id, question_type, answer_type, texts, _, _ in TWELVE
    ]
    asked = Vqa("q", records, Pool([]), score_types=("answer_type", "question_type"))
    by_metric = {}
    for query, (id, *_, output, accuracy) in zip(asked.queries(), TWELVE):
        scores = asked.score(query, [], output)
        assert scores["vqa_accuracy"] == pytest.approx(accuracy), id
        for metric, value in scores.items():
            by_metric.setdefault(metric, []).append(value)
    means = {metric: 100 * sum(values) / len(values) for metric, values in by_metric.items()}
    assert means == pytest.approx(
        {
            "vqa_accuracy": 69.1667,
            "vqa_accuracy/answer_type/yes/no": 65,
            "vqa_accuracy/answer_type/number": 87.5,
            "vqa_accuracy/answer_type/other": 55,
            "vqa_accuracy/question_type/is this": 65,
            "vqa_accuracy/question_type/how many": 87.5,
            "vqa_accuracy/question_type/what color": 55,
        },
        abs=1e-3,
    )


def test_few_answers_are_matched_and_none_are_not_scored():
    asked = Vqa("q", [record(1, "?", ["The cat", "dog"]), record(2, "?", [])], Pool([]))
    first, second = asked.queries()
    assert asked.score(first, [], "cat.") == {"exact_match": 1.0}
    assert asked.score(first, [], "cats") == {"exact_match": 0.0}
    assert asked.score(second, [], "cat") == {}


def test_stemmed_outputs_are_compared_with_stemmed_answers():
    [record_of_dogs] = [record(1, "?", answers(("dog", 6), ("cat", 4)))]
    asked = Vqa("q", [record_of_dogs], Pool([]), stemmer=lambda text: text.replace("dogs", "dog"))
    assert asked.score(asked.queries()[0], [], "dogs") == {"vqa_accuracy": 1.0}
    unstemmed = Vqa("q", [record_of_dogs], Pool([]), metric="vqa_accuracy_unstemmed")
    assert unstemmed.score(asked.queries()[0], [], "dogs") == {"vqa_accuracy_unstemmed": 0.0}


def test_a_submission_has_the_ids_of_the_data():
    records = [
        record(7, "?", []),
        QuestionRecord("v.jpg", Image("v.jpg"), (), None, "?", None, None, ("image", "v.jpg")),
    ]
    rows = Vqa("q", records, Pool([])).submission({"7": " cat ", "v.jpg": "dog"})
    assert rows == [{"question_id": 7, "answer": "cat"}, {"image": "v.jpg", "answer": "dog"}]


def test_questions_that_no_prompt_can_show_are_left_out(backbones):
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    long = " dog" * 30
    pool = [
        record(1, "short?", ["a", "b"]),
        record(2, f"{long * 2}?", ["a"]),
        record(3, "long answer?", ["a", long]),
        record(4, "a token?", ["a", "<image>"]),
        record(5, "no answer?", []),
    ]
    asked = Vqa("q", QUERIES, Pool(RecordList(pool, {})))
    prompt = processor.chunk_length(asked.queries()[0].prompt)
    longest = processor.chunk_length("Question: long answer? Short answer: " + long)
    new_tokens = processor.room - prompt - longest + 1
    fitted = asked.fitting(processor, CaptionTemplate(), new_tokens)
    assert [one.id for one in fitted.support_records] == ["1"]
    reasons = {id: reason.partition(":")[0] for id, reason in fitted.skipped.items()}
    assert reasons["2"] == reasons["3"] == "a question is too long"
    assert reasons["4"] == "a question or an answer has a special token"
    assert reasons["5"] == "there is no answer"
    more = asked.fitting(processor, CaptionTemplate(), new_tokens - 1).support_records
    assert "3" in [one.id for one in more]
