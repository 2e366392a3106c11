"""Settings that make no sense are refused, and each shows what it says."""

import pytest

from flamingo.evaluation.demonstrations import sample_demonstrations
from flamingo.evaluation.settings import Setting, prompt_examples
from flamingo.utils.errors import UserError
from tests.evaluation.fake import SETTINGS, FakeTask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 4, "demonstrations": None}, "^4 shots, greedy"),
        ({"shots": 0, "demonstrations": "random"}, "^0 shots, random"),
        ({"shots": 2, "demonstrations": "text_only"}, "2 shots, text_only"),
        ({"shots": -1, "demonstrations": "random"}, "^shots .*-1"),
        ({"shots": 0, "demonstrations": None, "control": "copied_caption"}, "^0 shots, copied_caption"),
        ({"shots": 0, "demonstrations": "text_only", "control": "shuffled_images"}, "text_only, shuffled_images"),
        ({"shots": 4, "demonstrations": "random", "num_beams": 0}, "^num_beams .*0"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Setting(**arguments)


def test_a_row_tells_its_setting():
    for setting in [*SETTINGS, Setting(8, "random", num_beams=3, seed=5)]:
        assert Setting.of_row(setting.row(FakeTask())) == setting
    assert Setting(8, "random", num_beams=3).row(FakeTask())["decoding"] == "beam3"


def test_controls_change_what_they_say_and_nothing_else():
    task = FakeTask()
    for query in task.queries():
        plain = sample_demonstrations(task, query, 3, seed=0)
        shown = {setting.control: prompt_examples(task, query, setting) for setting in SETTINGS[4:]}
        assert shown["blind"] == shown["copied_caption"] == plain
        images, captions = shown["shuffled_images"], shown["shuffled_captions"]
        assert [(e.id, e.references) for e in images] == [(e.id, e.references) for e in plain]
        assert all(any(e.image is p.image for p in plain) for e in images)
        assert [(e.id, e.image) for e in captions] == [(e.id, e.image) for e in plain]
        assert not any(e.references == p.references for e, p in zip(captions, plain) if "support" in p.references[0])
    assert prompt_examples(task, query, Setting(0, None)) == []
    assert prompt_examples(task, query, Setting(0, "text_only")) == sample_demonstrations(task, query, 2, seed=0)
    task.text_only = False
    with pytest.raises(UserError, match=r"fake/captions.*0-shot"):
        prompt_examples(task, query, Setting(0, "text_only"))
