"""A run's folder: gone on with, refused, or overwritten; and errors as sentences."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from experiments import train
from experiments.runs import begin, termination, user_errors
from flamingo.utils.errors import Stopped, UserError

CONFIG = {"training": {"steps": 3}, "data": {"a": {"batch": 1}}, "overwrite": False, "workers": 0}


def test_the_config_is_kept_and_the_same_run_goes_on(tmp_path):
    begin(tmp_path / "run", CONFIG, produces=("state",))
    begin(tmp_path / "run", CONFIG | {"workers": 2}, produces=("state",))
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept == {"training": {"steps": 3}, "data": {"a": {"batch": 1}}}


def test_a_run_that_made_nothing_may_be_started_with_another_config(tmp_path):
    begin(tmp_path, CONFIG | {"training": {"steps": -1}}, produces=("state",))
    begin(tmp_path, CONFIG, produces=("state",))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"steps": 3}


def test_another_config_is_refused_with_what_differs_and_how_to_overwrite(tmp_path):
    begin(tmp_path, CONFIG, produces=("state",))
    (tmp_path / "state").mkdir()
    other = CONFIG | {"training": {"steps": 4}, "data": {"b": {"batch": 1}}}
    with pytest.raises(ValueError, match=r"training\.steps was 3, is 4\).*overwrite=true") as caught:
        begin(tmp_path, other, produces=("state",))
    assert "data.a was {'batch': 1}, is 'absent'; data.b was 'absent', is {'batch': 1}" in str(caught.value)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"steps": 3}


def test_overwriting_removes_what_the_earlier_run_made_and_nothing_else(tmp_path):
    begin(tmp_path, CONFIG, produces=("state", "scores.json"))
    (tmp_path / "state").mkdir()
    for name in ("state/weights", "scores.json", "notes.txt"):
        (tmp_path / name).write_text("earlier")
    begin(tmp_path, CONFIG | {"training": {"steps": 4}, "overwrite": True}, produces=("state", "scores.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"steps": 4}


def test_what_may_change_may_change(tmp_path):
    begin(tmp_path, {"shots": [0], "limit": 3}, produces=("scores.json",), may_change=("shots",))
    (tmp_path / "scores.json").touch()
    begin(tmp_path, {"shots": [0, 4], "limit": 3}, produces=("scores.json",), may_change=("shots",))
    with pytest.raises(ValueError, match="limit was 3, is 4"):
        begin(tmp_path, {"shots": [0], "limit": 4}, produces=("scores.json",), may_change=("shots",))


def test_a_folder_that_was_moved_or_is_named_otherwise_is_gone_on_with(tmp_path):
    config = {"output": "here", "outputs_kept": 1}
    begin(tmp_path / "here", config, produces=("state",))
    (tmp_path / "here" / "state").mkdir()
    (tmp_path / "here").rename(tmp_path / "there")
    begin(tmp_path / "there", config | {"output": "there"}, produces=("state",))
    with pytest.raises(ValueError, match="outputs_kept was 1, is 2"):
        begin(tmp_path / "there", config | {"outputs_kept": 2}, produces=("state",))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("no such file"), 2, "error: no such file\n"),
        (KeyboardInterrupt("Stopped after step 3"), 130, "Stopped after step 3\n"),
        (Stopped("Stopped after step 3", signal.SIGTERM), 143, "Stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "Stopped: start the same command again to continue.\n"),
    ],
)
def test_what_the_user_can_mend_is_a_sentence_and_a_status(capsys, error, status, said):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise error
    assert caught.value.code == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("signals", "status"), [(1, 143), (2, -signal.SIGTERM)])
def test_sigterm_ends_a_command_as_ctrl_c_does_and_a_second_one_at_once(capfd, signals, status):
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            for _ in range(signals - 1):
                os.kill(os.getpid(), signal.SIGTERM)
            print("tidied", flush=True)

    if (pid := os.fork()) == 0:
        try:
            with user_errors(), termination():
                work()
        except SystemExit as end:
            os._exit(end.code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    said = capfd.readouterr()
    assert ("tidied" in said.out) == ("start the same command again" in said.err) == (signals == 1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("error", [AssertionError("an invariant"), ValueError("of torch"), KeyError("a field")])
def test_every_other_error_keeps_its_trace(error):
    with pytest.raises(type(error)), user_errors():
        raise error


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trainig.steps=3"], "trainig"),  # a key
        (["model=mobilnet"], "model/mobilnet"),  # a group's choice
        (["training.steps=many"], "training.steps"),  # a type
        (["training.steps"], "training.steps"),  # syntax
    ],
)
def test_hydras_errors_are_one_sentence_that_names_the_key(capsys, monkeypatch, overrides, key):
    monkeypatch.setattr(sys, "argv", ["train", *overrides])
    with pytest.raises(SystemExit) as caught:
        train.main()
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1
    assert key in said and "Traceback" not in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_memory_that_was_left_is_kept():
    """A page that was given back and comes again is a fault: of 100 MB there would be 24,000 each time."""
    measure = (
        "import resource, torch; from experiments.runs import keep_memory; keep_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(25_000_000); before = faults()\n"
        "for _ in range(5): torch.ones(25_000_000)\n"
        "print(faults() - before)"
    )
    result = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 50_000  # of 122,000
