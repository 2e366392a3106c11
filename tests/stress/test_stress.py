"""One small case of each disturbance. ``make stress`` has the rest."""

import random

import pytest

from tests.stress import disk, kills
from tests.stress.forked import run
from tests.stress.report import Report
from tests.stress.scenarios import make_inputs, scenarios


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The scenario, its end and its results."""
    folder = tmp_path_factory.mktemp("stress")
    scenario = scenarios(make_inputs(folder))["pretraining"]
    output = folder / "undisturbed"
    ended = run(scenario.arguments(output))
    assert ended.status == 0, ended.output
    return scenario, ended, scenario.results(output)


def test_a_killed_run_resumes_to_the_same_bytes(undisturbed, tmp_path):
    scenario, ended, expected = undisturbed
    report = Report()
    kills.kill_and_resume(scenario, ended, expected, tmp_path / "run", random.Random(0), report, number_of_kills=1)
    assert not report.wrong
    assert report.counts["kill: pretraining"]["equal results"] == 1


def test_a_full_disk_ends_a_run_with_one_sentence_and_no_loss(undisturbed, tmp_path):
    scenario, _, expected = undisturbed
    report = Report()
    disk.full_disk(scenario, expected, tmp_path / "run", 3, report)
    assert not report.wrong
    assert report.counts["full disk: pretraining"] == {"one sentence": 1, "equal results": 1}


@pytest.mark.full
def test_a_file_size_limit_ends_a_run_with_one_sentence(undisturbed, tmp_path):
    scenario, _, expected = undisturbed
    report = Report()
    disk.limited_size(scenario, expected, tmp_path / "run", 20_000, report)
    assert not report.wrong
    assert report.counts["limited file size: pretraining"] == {"one sentence": 1, "equal results": 1}
