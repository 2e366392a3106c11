"""An evaluation without a task takes the task of its run."""

import pytest
import yaml

from experiments.cli.extra_arguments import given_values
from experiments.cli.hydra_config import compose_config, load
from experiments.schema import as_recorded
from experiments.setup.default_task import default_task
from flamingo.evaluation.tasks import CaptioningConfig, VqaConfig
from tests.helpers.configs import composed


@pytest.fixture
def run(tmp_path):
    """A run's folder with the config of a training."""

    def write(*overrides):
        config = as_recorded(composed("train", *overrides))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return tmp_path

    return write


def evaluation(*arguments):
    """The config of a command line."""
    return load(compose_config("evaluate", [*arguments, *default_task(given_values(arguments))]))


@pytest.mark.parametrize(
    ("documents", "task"),
    [
        ("synthetic_captions", "synthetic_captions"),
        ("synthetic", "synthetic_captions"),
        ("synthetic_interleaved", "synthetic_captions"),
    ],
)
def test_a_synthetic_run_is_asked_for_its_first_kind(run, documents, task):
    assert evaluation(f"run={run(f'data={documents}')}").task.kind == task


def test_a_run_on_names_alone_is_asked_for_names(run):
    folder = run("data=synthetic", "~data.documents.captions", "~data.documents.questions")
    config = evaluation(f"run={folder}")
    assert (config.task.kind, config.shots) == ("synthetic_binding", [0, 2, 4, 8])
    assert evaluation(f"run={folder}", "task=synthetic_questions").task.kind == "synthetic_questions"


PHOTOGRAPHS = ("experiment=captions", 'data.root="somewhere/it\'s mine"', "model.vision=x", "data.split=train")


def test_a_run_on_images_is_asked_for_held_out_captions(run):
    folder = run(*PHOTOGRAPHS, "data.sample_split=dev", "data.images=pictures", "data.splits.seed=3")
    for arguments in ([f"run={folder}"], [f"checkpoint={folder}/checkpoint", "output=elsewhere"]):
        task = evaluation(*arguments).task
        assert isinstance(task, CaptioningConfig)
        assert (task.name, task.images, task.splits.seed) == ("it_s_mine", "pictures", 3)
        assert (task.query, task.query_split) == ("somewhere/it's mine", "dev")
        assert (task.support, task.support_split) == ("somewhere/it's mine", "train")


def test_a_run_on_questions_is_asked_held_out_questions(run):
    template = "Q:{question} A:{answer}"
    questions = ("experiment=questions", "data.root=q.json", "model.vision=x", "model.language=y", "data.split=train")
    key = f"data.documents.single.question_template='{template}'"
    task = evaluation(f"run={run(*questions, 'data.sample_split=val', key)}").task
    assert isinstance(task, VqaConfig)
    assert (task.name, task.query_split, task.support_split, task.question_template) == ("q", "val", "train", template)


def test_what_the_command_line_says_of_the_task_stays(run):
    folder = run(*PHOTOGRAPHS, "data.sample_split=dev", "data.images=pictures")
    task = evaluation(f"run={folder}", "task.query=test.jsonl", "task.name=mine").task
    assert (task.name, task.query, task.query_split) == ("mine", "test.jsonl", None)
    assert (task.support, task.support_split) == ("somewhere/it's mine", "train")
    task = evaluation(f"run={folder}", "task.query_split=test").task
    assert (task.query, task.query_split) == ("somewhere/it's mine", "test")


@pytest.mark.parametrize(
    ("root", "name"),
    [("/data/photos", "photos"), ("/data/photos/train-*.tar", "photos"), ("/data/own.jsonl", "own"), ("/", "captions")],
)
def test_a_task_is_named_for_the_data(run, root, name):
    assert evaluation(f"run={run(*PHOTOGRAPHS[:1], f'data.root={root}', *PHOTOGRAPHS[2:])}").task.name == name


def test_without_a_run_there_is_no_default_task(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").touch()
    for given in ({}, {"run": str(tmp_path)}, {"checkpoint": str(tmp_path / "checkpoint"), "output": "there"}):
        assert default_task(given) == []
