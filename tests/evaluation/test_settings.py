"""Impossible settings are refused, and names of settings show all of their values."""

import pytest

from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.demonstrations import prompt_examples, sample_demonstrations
from flamingo.evaluation.preflight import check_settings
from flamingo.evaluation.selection import IMAGE, SELECTIONS, Selection
from flamingo.evaluation.settings import Setting, make_settings
from flamingo.utils.errors import UserError
from tests.evaluation.fake import SETTINGS, FakeTask, OtherSupportsFakeTask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 4, "demonstrations": None}, "^4 shots, greedy"),
        ({"shots": 0, "demonstrations": "random"}, "^0 shots, random"),
        ({"shots": 2, "demonstrations": "text_only"}, "2 shots, text_only"),
        ({"shots": -1, "demonstrations": "random"}, "^shots .*-1"),
        ({"shots": 0, "demonstrations": None, "control": "copied_caption"}, "^0 shots, copied_caption"),
        ({"shots": 0, "demonstrations": "text_only", "control": "shuffled_images"}, "text_only, shuffled_images"),
        ({"shots": 0, "demonstrations": None, "support": "coco"}, "^0 shots, support coco"),
        ({"shots": 0, "demonstrations": "text_only", "support": "coco"}, "text_only, support coco"),
        ({"shots": 4, "demonstrations": "random", "num_beams": 0}, "^num_beams .*0"),
        ({"shots": 0, "demonstrations": None, "num_beams": 2, "temperature": 1.0}, r"temperature1\.0.*num_beams=2"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Setting(**arguments)


def test_a_row_tells_its_setting():
    for setting in [*SETTINGS, Setting(8, "random", num_beams=3, seed=5), Setting(2, "rices", support="coco")]:
        assert Setting.of_row(setting.row(FakeTask())) == setting
    assert Setting(8, "random", num_beams=3).row(FakeTask())["decoding"] == "beam3"


@pytest.mark.parametrize(
    ("setting", "decoding"),
    [
        (Setting(0, None, temperature=0.7), "temperature0.7"),
        (Setting(0, None, temperature=1.0, top_p=0.95), "temperature1.0,top_p0.95"),
        (Setting(0, None, temperature=1e-05), "temperature1e-05"),
        (Setting(4, "random", template="A photo of {caption}"), "greedy"),
    ],
)
def test_a_row_tells_template_and_sampling(setting, decoding):
    row = setting.row(FakeTask())
    assert (row["decoding"], row["template"]) == (decoding, setting.template)
    assert Setting.of_row(row) == setting


def test_sampled_settings_without_demonstrations_have_all_seeds():
    config = EvaluationConfig(
        shots=[0, 2], text_only=False, seeds=[0, 1], temperature=0.5, top_p=0.9, template="{caption}"
    )
    settings = make_settings(config, FakeTask())
    assert [(setting.shots, setting.seed) for setting in settings] == [(0, 0), (2, 0), (0, 1), (2, 1)]
    assert {(setting.temperature, setting.top_p, setting.template) for setting in settings} == {(0.5, 0.9, "{caption}")}


def controls_of(**keys):
    config = EvaluationConfig(text_only=False, controls=["blind", "shuffled_images", "copied_caption"], **keys)
    return [(one.shots, one.control) for one in make_settings(config, FakeTask()) if one.control is not None]


def test_controls_run_at_the_most_shots_by_default():
    at_eight = [(8, "blind"), (8, "shuffled_images"), (8, "copied_caption")]
    assert controls_of() == controls_of(shots=[8, 0, 2]) == at_eight
    assert controls_of(shots=[0, 8], control_shots=[2]) == [(2, control) for _, control in at_eight]
    assert controls_of(shots=[0]) == [(0, "blind")]
    assert controls_of(shots=[]) == controls_of(control_shots=[]) == []
    with pytest.raises(UserError, match=r"^control_shots has 0.*shuffled_images"):
        controls_of(shots=[0], control_shots=[0])


def test_settings_run_with_every_support():
    names = ["random", "rices"]
    controls = ["blind", "shuffled_images", "copied_caption"]
    config = EvaluationConfig(shots=[0, 2], demonstrations=names, controls=controls)
    settings = make_settings(config, OtherSupportsFakeTask())
    own = [setting for setting in settings if setting.support is None]
    assert own == make_settings(config, FakeTask())
    others = [(one.shots, one.demonstrations, one.control) for one in settings if one.support == "far"]
    expected = [(2, name, None) for name in names]
    expected += [(2, name, control) for name in names for control in ("blind", "copied_caption")]
    assert others == expected
    only_blind = make_settings(EvaluationConfig(shots=[0], controls=["blind"]), OtherSupportsFakeTask())
    assert {setting.support for setting in only_blind} == {None}


def test_a_support_that_a_task_does_not_have_is_refused():
    known = Setting(3, "random", support="far")
    check_settings(OtherSupportsFakeTask(), [known])
    with pytest.raises(UserError, match=r"fake/captions with support far.*3 examples, 4 are needed"):
        check_settings(OtherSupportsFakeTask(), [Setting(4, "random"), Setting(4, "random", support="far")])
    for task, name in ((FakeTask(), "far"), (OtherSupportsFakeTask(), "near")):
        unknown = Setting(3, "random", support=name)
        with pytest.raises(UserError, match=rf"fake/captions.*'{name}'"):
            check_settings(task, [unknown])
        with pytest.raises(UserError, match=rf"fake/captions.*'{name}'"):
            prompt_examples(task, task.queries()[0], unknown)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"temperature": 0.0}, "^temperature"),
        ({"top_p": 0.0}, "^top_p"),
        ({"top_p": 0.9}, "temperature"),
        ({"temperature": 1.0, "num_beams": [1, 3]}, "^num_beams"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "^max_new_tokens"),
        ({"template": "A photo"}, r"\{caption\}.*'A photo'"),
    ],
)
def test_decoding_and_template_are_checked(keys, named):
    with pytest.raises(UserError, match=named):
        EvaluationConfig(**keys)


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


class RetrievalFakeTask(FakeTask):
    """The candidates in their order are the most similar to each query."""

    def similar(self, query, number):
        return self._support[0][:number]


@pytest.mark.parametrize("selection", [Selection(), Selection(IMAGE)], ids=["random", "retrieved"])
def test_a_new_selection_is_its_entry_in_the_dict(monkeypatch, selection):
    monkeypatch.setitem(SELECTIONS, "new", selection)
    config = EvaluationConfig(demonstrations=["new"], shots=[3], text_only=False)
    task = RetrievalFakeTask()
    [setting] = make_settings(config, task)
    check_settings(task, [setting])
    query = task.queries()[0]
    shown = [shown_example.id for shown_example in prompt_examples(task, query, setting)]
    if selection.retrieved:
        assert shown == ["support/2", "support/1", "support/0"]
        with pytest.raises(UserError, match="fake/captions"):
            check_settings(FakeTask(), [setting])
    else:
        assert shown == [sampled.id for sampled in sample_demonstrations(task, query, 3, seed=0)]


def test_a_config_refuses_a_selection_without_images():
    with pytest.raises(UserError, match=r"^demonstrations .*random, rices"):
        EvaluationConfig(demonstrations=["text_only"])
