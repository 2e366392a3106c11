"""Missing or unwritable folders and files are named with their keys before torch is imported."""

import pytest

from experiments.setup.default_task import default_task
from flamingo.utils.errors import UserError
from tests.helpers.configs import problems

TASK = "task=synthetic_captions"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder: a file, a run that was stopped, a folder of something else, and a finished run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "stopped" / "state").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "finished" / "checkpoint").mkdir(parents=True)
    (tmp_path / "finished" / "checkpoint" / "model.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "overrides", "beginning", "fix"),
    [
        ("evaluate", ["run=nowhere", TASK], "run=nowhere:", "no such folder"),
        ("evaluate", ["run=file", TASK], "run=file ", "a file"),
        ("evaluate", ["run=stopped", TASK], "run=stopped ", "was stopped"),
        ("evaluate", ["run=other", TASK], "run=other ", "no checkpoint"),
        ("evaluate", ["run=finished", "checkpoint=nowhere", TASK], "checkpoint=nowhere:", "no such folder"),
        ("evaluate", ["checkpoint=other", "output=out", TASK], "checkpoint=other ", "safetensors"),
        ("word_attention", ["run=nowhere"], "run=nowhere:", "no such folder"),
        ("word_attention", ["run=stopped"], "run=stopped ", "was stopped"),
        ("report", ["run=nowhere"], "run=nowhere:", "no such folder"),
        ("report", ["run=finished"], "run=finished ", "scores.json"),
        ("caption", ["checkpoint=other", "images=.", "output=a.jsonl"], "checkpoint=other ", "safetensors"),
        ("caption", ["checkpoint=stopped", "images=.", "output=a.jsonl"], "checkpoint=stopped ", "was stopped"),
        ("caption", ["checkpoint=a/b/c", "images=.", "output=a.jsonl"], "checkpoint=a/b/c:", "no such folder"),
        ("caption", ["checkpoint=a/b", "images=nowhere", "output=a.jsonl"], "images=nowhere:", "no such file"),
        ("caption", ["checkpoint=a/b", "images=.", "output=a.jsonl", "demonstrations=b"], "demonstrations=b:", "file"),
        ("caption", ["checkpoint=a/b", "images=.", "output=file/a.jsonl"], "output=file/a.jsonl ", "a file"),
        ("train", ["output=file/run"], "output=file/run ", "a file"),
        ("inspect_data", ["data.root=.", "output=file/a.json"], "output=file/a.json ", "a file"),
        ("pretrain_language", ["output=file/run"], "output=file/run ", "a file"),
    ],
)
def test_what_is_not_there_is_named_with_its_key(here, command, overrides, beginning, fix):
    [problem] = problems(*overrides, command=command)
    assert problem.startswith(beginning) and fix in problem


def test_what_is_there_is_no_problem(here):
    before = sorted(here.rglob("*"))
    assert problems("run=finished", TASK, command="evaluate") == []
    assert problems("run=finished", command="word_attention") == []
    assert problems("checkpoint=finished", "images='*.png'", "output=a/b/c.jsonl", command="caption") == []
    assert problems("checkpoint=OWNER/NAME", "images=.", "output=a.jsonl", command="caption") == []
    assert problems("output=a/b/c") == []
    assert sorted(here.rglob("*")) == before


def test_several_are_named_together(here):
    found = problems("checkpoint=/a", "images=b", "demonstrations=c.jsonl", "output=a.jsonl", command="caption")
    assert [problem.partition("=")[0] for problem in found] == ["checkpoint", "images", "demonstrations"]


@pytest.mark.parametrize(
    ("given", "beginning"),
    [
        ({"run": "nowhere"}, "run=nowhere:"),
        ({"run": "other"}, "run=other "),
        ({"checkpoint": "nowhere", "output": "out"}, "checkpoint=nowhere:"),
    ],
)
def test_a_default_task_of_a_run_that_is_not_there_names_the_run(here, given, beginning):
    """Not the task, which the run would have decided."""
    with pytest.raises(UserError) as caught:
        default_task(given)
    assert str(caught.value).startswith(beginning)
