"""Prompts that are too long are errors before the first prediction, with the shots and the value to set."""

from dataclasses import replace

import pytest

from flamingo.data.shortening import TooManyTokensError
from flamingo.evaluation.prompt_lengths import check_prompts, check_retrieved_prompts
from flamingo.evaluation.protocol import with_support
from flamingo.evaluation.settings import Setting
from flamingo.utils.errors import UserError
from tests.evaluation.fake import FakeTask, OtherSupportsFakeTask

SEEDS = (0, 1)


@pytest.fixture
def task():
    return FakeTask()


def fitting(images, checked=None):
    """A check of prompts with a limited number of images."""

    def check(prompt):
        number = sum(chunk.image is not None for chunk in prompt.chunks())
        if checked is not None:
            checked.append(number)
        if number > images:
            raise TooManyTokensError(f"{prompt.id} has {number} images, more than the {images} that fit")

    return check


def settings(*shots, control=None):
    return [Setting(number, "random" if number else None, control, seed=seed) for number in shots for seed in SEEDS]


def test_shots_that_do_not_fit_are_named_with_those_that_do(task):
    with pytest.raises(UserError) as caught:
        check_prompts(task, settings(0, 1, 2, 3), fitting(2))
    assert str(caught.value).startswith(f"{task.name}: prompts with 2 and 3 shots are too long")
    assert "set shots=[0, 1] or a smaller max_new_tokens" in str(caught.value)
    check_prompts(task, settings(0, 1), fitting(2))


def test_where_all_fit_the_longest_alone_are_built(task):
    checked = []
    check_prompts(task, settings(1, 3), fitting(9, checked), limit=2)
    assert checked == [4] * 4  # two queries, two seeds


def test_what_to_set_depends_on_what_is_too_long(task):
    with pytest.raises(UserError, match=r"without demonstrations.*set a smaller max_new_tokens$"):
        check_prompts(task, settings(0, 2), fitting(0))
    controls = settings(3, control="shuffled_images")
    with pytest.raises(UserError, match=r"with 3 shots.*set control_shots=\[0, 1\]"):
        check_prompts(task, settings(0, 1) + controls, fitting(3))
    text_only = [Setting(0, None), Setting(0, "text_only")]
    long_texts = _texts_below(3)
    with pytest.raises(UserError, match=r"text-only.*set text_only=false$"):
        check_prompts(task, text_only, long_texts)


@pytest.mark.parametrize("support", [None, "far"])
def test_the_prompts_of_every_support_are_checked(support):
    task = OtherSupportsFakeTask()
    both = [Setting(2, "random"), Setting(2, "random", support="far")]
    retrieved = [replace(setting, demonstrations="rices") for setting in both]
    [group] = with_support(task, support).support(task.queries()[0])

    def check(prompt):
        for example in group:
            if any(chunk.image is example.image for chunk in prompt.chunks()):
                raise TooManyTokensError("too long")

    for checked, settings_of_kind in ((check_prompts, both), (check_retrieved_prompts, retrieved)):
        with pytest.raises(UserError, match=r"^fake/captions.*2 shots are too long"):
            checked(task, settings_of_kind, check)


def _texts_below(limit):
    def check(prompt):
        if len(prompt.chunks()) >= limit:
            raise TooManyTokensError("too long")

    return check


def test_similar_demonstrations_are_bounded_by_the_support(task, caplog):
    """Captions of the support have different lengths: between the bounds the outcome is unknown."""
    query = task.queries()[0]
    [group] = task.support(query)
    longest = sorted(max(map(len, example.references)) for example in group)
    shortest = sorted(min(map(len, example.references)) for example in group)
    retrieved = [Setting(2, "rices"), Setting(1, "rices")]

    def check(limit):
        def too_long(prompt):
            texts = [text.text for chunk in prompt.chunks()[:-1] for text in chunk.texts]
            length = sum(len(text.removeprefix("Output: ")) for text in texts)
            if length > limit:
                raise TooManyTokensError(f"{length} characters")

        return too_long

    check_retrieved_prompts(task, retrieved, check(sum(longest[-2:])))
    assert caplog.text == ""
    check_retrieved_prompts(task, retrieved, check(sum(longest[-2:]) - 1))
    assert "prompts with 2 similar demonstrations" in caplog.text
    with pytest.raises(UserError, match=r"prompts with 2 shots are too long"):
        check_retrieved_prompts(task, retrieved, check(sum(shortest[:2]) - 1))
