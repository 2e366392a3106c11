"""Defaults of an evaluation: the shots that fit, and controls at the most shots."""

from dataclasses import replace

import pytest

from experiments.setup.evaluation_plan import plan
from experiments.setup.rices import check_rices
from flamingo.evaluation.settings import Setting
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed


@pytest.fixture
def planned(shards):
    """The plan of captions of the four pictures of dev, with further keys."""

    def make(*overrides):
        own = ("task=captions", "task.name=own", f"task.query={shards}/dev-*.tar", "task.metrics=[CIDEr]")
        return plan(composed("evaluate", *own, *overrides))

    return make


def settings(planned, control=None):
    return [(one.shots, one.demonstrations) for one in planned.settings if one.control == control]


def test_a_test_set_without_support_has_no_demonstrations(planned):
    own = planned()
    assert [str(setting) for setting in own.settings] == ["0 shots, beam3, seed 0", "0 shots, blind, beam3, seed 0"]
    assert list(own.task.support_records) == []
    for asked in ("shots=[0,3]", "control_shots=[3]"):
        with pytest.raises(UserError, match=r"task\.support.*own.*3 shots"):
            planned("shots=[0]", asked)


def test_default_shots_are_those_that_the_support_holds(planned, shards, caplog):
    caplog.set_level("INFO")
    both = ["random", "rices"]
    many = planned(f"task.support={shards}/train-*.tar")
    plain = [(0, None), *((shots, name) for shots in (1, 2, 4, 8) for name in both), (0, "text_only")]
    assert settings(many) == plain
    assert settings(many, "shuffled_images") == settings(many, "consensus_caption") == [(8, name) for name in both]
    assert settings(many, "nearest_caption") == [(8, "random")] and many.left_out_controls == []
    assert "do not fit" not in caplog.text
    # The queries are their own support: three others remain.
    few = planned(f"task.support={shards}/dev-*.tar")
    assert settings(few) == [(0, None), *((shots, name) for shots in (1, 2) for name in both), (0, "text_only")]
    assert settings(few, "shuffled_images") == [(2, name) for name in both]
    assert settings(few, "nearest_caption") == [(2, "random")]
    assert settings(few, "consensus_caption") == [] and few.left_out_controls == ["consensus_caption"]
    assert "shots=[0, 1, 2]: larger numbers do not fit" in caplog.text and "3 examples, 8 are needed" in caplog.text


def test_numbers_of_shots_that_are_given_have_to_fit(planned, shards):
    with pytest.raises(UserError, match=r"own.*3 examples, 4 are needed"):
        planned(f"task.support={shards}/dev-*.tar", "shots=[0,4]")


def test_the_nearest_caption_needs_features_and_such_a_task(planned, shards):
    support = (f"task.support={shards}/train-*.tar", "demonstrations=[random]", "features.folder=null")
    with pytest.raises(UserError, match=r"^nearest_caption .*features\.folder"):
        planned(*support)
    assert settings(planned(*support, "controls=[consensus_caption]"), "consensus_caption") == [(8, "random")]
    # Fewer shots would not help: they are not tried.
    own = ("task=synthetic_questions", "task.num_queries=1", "controls=[nearest_caption]")
    with pytest.raises(UserError, match=r"^synthetic_questions has no .*nearest_caption"):
        plan(composed("evaluate", *own))


def test_retrieval_by_captions_needs_a_dual_encoder(planned, shards, tmp_path):
    own = planned(f"task.support={shards}/train-*.tar", "controls=[]", "shots=[0]")

    def check(name, encoder):
        check_rices(replace(own.config, rices_encoder=encoder), own.task, [Setting(2, name)])

    with pytest.raises(UserError, match=r"demonstrations=rices_caption .*rices_encoder"):
        check("rices_caption", None)
    with pytest.raises(UserError, match=rf"^rices_encoder {tmp_path}/none"):
        check("rices_sum", f"{tmp_path}/none")
    with pytest.raises(UserError, match=r"^rices_encoder=clip has no effect"):
        check("rices", "clip")
    check("random", None)
