"""Several runs by a pattern or a list: their folders, and the commands that take them."""

from pathlib import Path

import pytest
import yaml

from experiments.evaluate import check_config
from experiments.report import ReportConfig
from experiments.runs import run_evaluation
from experiments.runs.run_report import run_report
from experiments.setup.default_task import default_task
from experiments.setup.run_lists import common_folder, run_folders
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed
from tests.report.test_comparison import write_run


@pytest.fixture
def sweep(tmp_path):
    """Two runs of a sweep, another run, and a folder without a run."""
    for number, name in enumerate(("sweep/every-1", "sweep/every-2", "other")):
        write_run(tmp_path / name, 0, 0.5, every=number)
    (tmp_path / "sweep" / "multirun.yaml").write_text("")
    return tmp_path


def test_a_pattern_and_a_list_name_each_run_once(sweep):
    first, second, other = (sweep / name for name in ("sweep/every-1", "sweep/every-2", "other"))
    assert run_folders(f"{sweep}/sweep/*") == [first, second]
    assert run_folders([f"{other}", f"{sweep}/sweep", f"{second}"]) == [other, first, second]


@pytest.mark.parametrize("runs", ["nowhere/*", ["nowhere"], [], "", [3], 3])
def test_runs_that_are_not_there_are_refused(runs):
    with pytest.raises(UserError, match="runs"):
        run_folders(runs)


def test_a_comparison_lies_in_the_folder_that_all_runs_share(sweep):
    assert common_folder("outputs/a*/b") == Path("outputs")
    assert common_folder(["outputs/a", "outputs/b/"]) == Path("outputs")
    assert common_folder([f"{sweep}/sweep/every-1", f"{sweep}/other"]) == sweep
    [markdown, *_] = run_report(ReportConfig(runs=[f"{sweep}/sweep/every-2", f"{sweep}/other"]))
    assert markdown == sweep / "comparison.md" and "# 2 variants, 2 runs" in markdown.read_text()


def test_several_runs_are_evaluated_and_problems_are_reported(sweep, monkeypatch):
    evaluated = []

    def evaluate(config):
        if config.run.endswith("every-1"):
            raise UserError("no checkpoint")
        evaluated.append((config.run, config.runs, config.shots))

    monkeypatch.setattr(run_evaluation, "run_evaluation", evaluate)
    config = composed("evaluate", "run=null", f"runs='{sweep}/sweep/*'", "shots=[2]")
    with pytest.raises(UserError, match=r"every-1: no checkpoint"):
        run_evaluation.evaluate_runs(config)
    assert evaluated == [(f"{sweep}/sweep/every-2", None, [2])]


@pytest.mark.parametrize("key", ["run", "checkpoint", "output"])
def test_runs_stand_alone(sweep, key):
    with pytest.raises(UserError, match=f"{key} .* runs"):
        check_config(composed("evaluate", "run=null", f"runs={sweep}/sweep", f"{key}=a"))


def test_several_runs_have_the_task_that_they_were_trained_on(sweep):
    def trained_on(folder, kind):
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"documents": {"a": {"kind": kind}}}}))

    folders = [sweep / "sweep" / name for name in ("every-1", "every-2")]
    for folder in folders:
        trained_on(folder, "synthetic_captions")
    assert default_task({"runs": f"{sweep}/sweep/*"}) == ["task=synthetic_captions"]
    trained_on(folders[1], "synthetic_questions")
    with pytest.raises(UserError, match=r"task .*every-1 and .*every-2"):
        default_task({"runs": [str(folder) for folder in folders]})
    assert default_task({"runs": f"{sweep}/sweep/*", "task": "synthetic_questions"}) == []
