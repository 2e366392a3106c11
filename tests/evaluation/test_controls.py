"""Baselines answer from the demonstrations alone, and described demonstrations have words in place of images."""

from dataclasses import replace

import pytest

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Affixes, Image
from flamingo.data.shortening import TooManyTokensError
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.controls import (
    CONTROLS,
    consensus_caption,
    majority_answer,
    nearest_caption,
    shuffled_images,
)
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.preflight import check_settings
from flamingo.evaluation.prompt_lengths import check_prompts
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import CaptionTask, DescribedTask, NearestTask
from flamingo.evaluation.settings import Setting, left_out_controls, make_settings
from flamingo.results import read_prediction_rows
from flamingo.utils.errors import UserError
from tests.evaluation.fake import FakeTask, example


class BaselineTask(FakeTask):
    """The support shows one caption each. Images are more similar the closer their numbers are."""

    def __init__(self, *captions):
        super().__init__()
        self.num_corpora = 0
        if captions:
            self._support = [[example("support", i).with_caption(caption) for i, caption in enumerate(captions)]]

    def nearest(self, query, examples):
        return min(examples, key=lambda one: abs(number_of(one) - number_of(query)))

    def description(self, query, example):
        return f"{query.id} saw number {number_of(example)}"

    def cider(self, query):
        self.num_corpora += 1
        return CiderReward([one.references for one in self._support[0]])


def number_of(example):
    return int(example.id.split("/")[1])


def shown(*captions):
    return [example("support", i).with_caption(caption) for i, caption in enumerate(captions)]


def consensus_of(task, *captions):
    return consensus_caption(task, task.queries()[0], shown(*captions))


def test_the_consensus_has_the_highest_mean_cider_to_the_others():
    """Each word but "green" is in two of four captions: equal weights, and no two captions share a bigram.

    "red dog" has the cosine 1 / sqrt(2 * 2) to "red cat" and to "blue dog", which have none to each other.
    """
    task = BaselineTask("red dog", "red cat", "blue dog", "blue cat")
    assert consensus_of(task, "red dog", "red cat", "blue dog") == "red dog"
    assert consensus_of(task, "blue dog", "red cat", "red dog") == "red dog"
    cider = task.cider(task.queries()[0])
    scores = cider(["red dog", "red cat"], [["red cat", "blue dog"], ["red dog", "blue dog"]])
    # The mean over the lengths 1 to 4 of n-grams has one cosine of 1 / 2 and three of 0, times 10.
    assert scores == pytest.approx([10 / 8, 10 / 16])


def test_the_support_weights_the_words_of_the_consensus():
    captions = ("red cat", "red dog", "blue cat")
    assert consensus_of(BaselineTask("red dog", "red cat", "blue cat", "green bird"), *captions) == "red cat"
    # "red" is in every caption of this support and has no weight: the two cats are equal, and the later one wins.
    everywhere = BaselineTask("red dog", "red cat", "red and blue cat", "red bird")
    assert consensus_of(everywhere, *captions) == "blue cat"
    assert consensus_of(everywhere, *reversed(captions)) == "red cat"


def test_a_caption_that_repeats_counts_for_itself():
    task = BaselineTask("red dog", "red cat", "blue dog", "blue cat")
    assert consensus_of(task, "blue cat", "red dog", "red cat", "blue cat") == "blue cat"


def test_the_majority_is_the_most_frequent_answer_shown():
    def majority(*answers):
        return majority_answer(FakeTask(), FakeTask().queries()[0], shown(*answers))

    assert majority("red", "red", "blue") == "red"
    assert majority("red", "blue", "blue", "red", "two") == "red"
    assert majority("blue", "red", "red", "blue", "two") == "blue"
    assert majority("red", "blue") == "blue"
    assert majority("red") == "red"


def test_the_nearest_caption_is_that_in_the_prompt():
    task = BaselineTask()
    query = task.queries()[5]
    demonstrations = [example("support", number).with_caption(f"caption {number}") for number in (9, 4, 0)]
    assert nearest_caption(task, query, demonstrations) == "caption 4"
    assert nearest_caption(task, query, [replace(one, references=("swapped",)) for one in demonstrations]) == "swapped"


def test_images_of_a_pair_stay_together_when_shuffled():
    pairs = []
    for number in range(6):
        later = (example("later", number).image,)
        pairs.append(replace(example("pair", number), later_images=later))
    shown = shuffled_images(FakeTask(), FakeTask().queries()[0], pairs, seed=0)
    assert [one.id for one in shown] == [one.id for one in pairs]
    images = [one.images for one in pairs]
    permuted = [one.images for one in shown]
    assert permuted != images and sorted(permuted, key=images.index) == images


def test_a_pair_is_one_chunk_of_the_prompt():
    pair = replace(example("pair", 0, references=1), later_images=(example("later", 0).image,))
    prompt = build_prompt(pair, [pair], template=CaptionTemplate(affixes=Affixes("red\n", "Image:", "\n")))
    text = "red\nImage:<image><image>Output: a dog of pair 0<|endofchunk|>\nImage:<image><image>Output:"
    assert render_prompt(prompt) == text
    without_images = build_prompt(pair, [pair], images=False)
    assert render_prompt(without_images) == "Output: a dog of pair 0<|endofchunk|><image><image>Output:"


def test_described_demonstrations_are_lines_of_text():
    task = BaselineTask()
    query = task.queries()[1]
    plain = prompt_examples(task, query, Setting(2, "random"))
    shown = prompt_examples(task, query, Setting(2, "random", "described"))
    assert [replace(one, description=None) for one in shown] == plain
    lines = [f"query/1 saw number {number_of(one)} Output: {one.references[0]}\n" for one in plain]
    prompt = build_prompt(query, shown)
    assert render_prompt(prompt) == "".join(lines) + "<|endofchunk|><image>Output:"
    assert [part for part in prompt.parts if isinstance(part, Image)] == [query.image]
    asked = [replace(one, prompt="Question: what? Answer:") for one in shown]
    assert render_prompt(build_prompt(query, asked)).startswith(
        f"query/1 saw number {number_of(plain[0])} Question: what? Answer: {plain[0].references[0]}\n"
    )


def test_lengths_of_described_prompts_are_checked():
    """They have one image, and longer texts."""

    def check(prompt):
        chunks = prompt.chunks()
        lengths.append(sum(len(text.text) for text in chunks[0].texts))
        if len(chunks) > 2:
            raise TooManyTokensError(f"{prompt.id} has {len(chunks) - 1} demonstrations with images")

    lengths: list[int] = []
    task = BaselineTask()
    check_prompts(task, [Setting(3, "random", "described")], check)
    assert len(lengths) == 6 and min(lengths) > 3 * len("query/0 saw number 0 Output: the dog")
    with pytest.raises(UserError, match="3 shots"):
        check_prompts(task, [Setting(3, "random")], check)


BASELINES = ("nearest_caption", "consensus_caption", "majority_answer")


def test_baselines_need_no_model_and_are_not_computed_twice(tmp_path):
    task = BaselineTask()
    settings = [Setting(3, "random", control) for control in BASELINES]
    rows = evaluate(None, task, settings, tmp_path, EvaluationConfig())
    assert {(row["control"], row["n"]) for row in rows if row["metric"] == "CIDEr"} == {(one, 6) for one in BASELINES}
    predictions = read_prediction_rows(tmp_path / "predictions.jsonl")
    queries = {query.id: query for query in task.queries()}
    assert len(predictions) == 18
    for row in predictions:
        query = queries[row["query"]]
        demonstrations = prompt_examples(task, query, Setting(3, "random"))
        assert row["output"] == CONTROLS[row["control"]].answer(task, query, demonstrations)
        assert f"Output: {row['output']}<|endofchunk|>" in row["prompt"]
    resumed = BaselineTask()
    assert evaluate(None, resumed, settings, tmp_path, EvaluationConfig()) == rows
    assert resumed.num_corpora == 0
    with pytest.raises(ValueError, match="copied_caption, nearest_caption, consensus_caption, majority_answer"):
        evaluate(None, task, [Setting(3, "random")], tmp_path, EvaluationConfig())


def controls_of(shots, demonstrations=("random", "rices"), **keys):
    config = EvaluationConfig(
        shots=shots, demonstrations=list(demonstrations), text_only=False, controls=["blind", *BASELINES], **keys
    )
    settings = [one for one in make_settings(config, FakeTask()) if one.control is not None]
    found = [(one.shots, one.demonstrations, one.control, one.num_beams) for one in settings]
    return found, left_out_controls(config, shots)


def test_controls_that_need_more_shots_are_left_out_by_default():
    random = [(2, "random", "nearest_caption", 1), (2, "random", "majority_answer", 1)]
    both = [(2, "random", "blind", 1), *random, (2, "rices", "blind", 1), (2, "rices", "majority_answer", 1)]
    assert controls_of([0, 2]) == (both, ["consensus_caption"])
    assert controls_of([0]) == ([(0, None, "blind", 1)], list(BASELINES))
    for shots, named in ((2, "consensus_caption"), (0, "nearest_caption")):
        with pytest.raises(UserError, match=rf"^control_shots has {shots}.*{named}"):
            controls_of([0, 8], control_shots=[8, shots])
    with pytest.raises(UserError, match=r"^2 shots, random, consensus_caption.*3"):
        Setting(2, "random", "consensus_caption")


def test_a_baseline_runs_once_and_the_nearest_at_random_alone():
    found, left_out = controls_of([3], num_beams=[1, 3])
    assert left_out == []
    assert [(name, control) for _, name, control, beams in found if beams == 3] == [
        ("random", "blind"),
        ("rices", "blind"),
    ]
    assert [name for _, name, control, _ in found if control == "nearest_caption"] == ["random"]
    with pytest.raises(UserError, match=r"^3 shots, rices, nearest_caption"):
        Setting(3, "rices", "nearest_caption")


@pytest.mark.parametrize(
    ("control", "protocol"),
    [("nearest_caption", NearestTask), ("consensus_caption", CaptionTask), ("described", DescribedTask)],
)
def test_a_task_without_what_a_control_needs_is_refused(control, protocol):
    assert isinstance(BaselineTask(), protocol) and not isinstance(FakeTask(), protocol)
    check_settings(BaselineTask(), [Setting(3, "random", control)])
    with pytest.raises(UserError, match=rf"^fake/captions has no .*{control}"):
        check_settings(FakeTask(), [Setting(3, "random", control)])
