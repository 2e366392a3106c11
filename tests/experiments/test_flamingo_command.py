"""The ``flamingo`` command: its list, its errors, and a demo from an installed wheel."""

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from experiments import __main__ as flamingo_command
from experiments.cli.command import CONF
from tests.helpers.configs import CONFIGS
from tests.helpers.small_runs import ONE_SETTING, SMALL_DEMO
from tests.helpers.wheel import ROOT, build_wheel, install, new_environment


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["flamingo", *arguments])
    flamingo_command.main()


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_every_command_is_listed_with_what_it_does(monkeypatch, capsys, arguments):
    call(monkeypatch, *arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("flamingo COMMAND ")
    for name in CONFIGS:
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3 and len(line) <= 120


def test_a_command_gets_the_other_arguments(monkeypatch):
    called = []
    monkeypatch.setattr("experiments.report.main", lambda: called.append(sys.argv))
    call(monkeypatch, "report", "run=a", "--cfg", "job")
    assert called == [["flamingo report", "run=a", "--cfg", "job"]]


def test_an_unknown_command_is_named_with_the_nearest_one(monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "trian")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: trian ") and "did you mean train?" in said and said.count("\n") == 1


def test_without_the_extra_one_sentence_names_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "train", "experiment=demo")
    assert caught.value.code == 2
    assert "'flamingo[experiments]'" in capsys.readouterr().err


@pytest.fixture
def installed(tmp_path):
    """A new environment in which a wheel of the project is installed, and nothing else."""
    environment = tmp_path / "environment"
    wheel = build_wheel(tmp_path / "built")
    install(new_environment(environment), wheel, ["--no-deps", "--no-index"])
    return environment


@pytest.mark.full
def test_an_installed_wheel_trains_evaluates_and_reports(installed, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program, *arguments):
        command = [installed / "bin" / program, *arguments]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)

    assert "  train " in run("flamingo").stdout
    without_extra = run("flamingo", "train", "experiment=demo")
    assert without_extra.returncode == 2 and "flamingo[experiments]" in without_extra.stderr
    # What the wheel requires is taken from the environment of the tests, which need no network.
    [packages] = installed.glob("lib/python*/site-packages")
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    places = run("python", "-c", "import experiments, flamingo; print(flamingo.__file__, experiments.__file__)").stdout
    assert [Path(place).parents[1] for place in places.split()] == [packages, packages]

    assert "Updates of the weights" in run("flamingo", "train", "--help").stdout
    output = ("output=demo",)
    for arguments in (("train", *SMALL_DEMO, *output), ("evaluate", "run=demo", *ONE_SETTING), ("report", "run=demo")):
        done = run("flamingo", *arguments)
        assert done.returncode == 0, done.stderr
    assert (folder / "demo" / "checkpoint").is_dir() and (folder / "demo" / "report.html").is_file()
    assert [path.name for path in folder.iterdir()] == ["demo"]


def test_the_configs_lie_beside_the_package_in_the_repository():
    assert CONF == ROOT / "conf"
