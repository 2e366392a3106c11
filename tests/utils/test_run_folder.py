"""A run's folder: one owner, one config, one content, and an earlier run that stays until it is replaced."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import yaml

from flamingo.utils.errors import UserError
from flamingo.utils.run_folder import Run, RunFiles, failure_recorded, model_contents, run_folder

CONFIG = {"training": {"steps": 3}, "data": {"a": {"batch": 1}}, "overwrite": False, "num_workers": 0}
CONTENTS = {"data": {"captions": "0a", "files": "0b"}}
FILES = RunFiles(
    results=("state", "scores.json"),
    saved=("state/step-*[0-9]", "scores.json"),
    descriptions=("overrides.yaml", "evaluate-*.yaml"),
    may_change=("shots",),
)


def start(output, config=CONFIG, contents=CONTENTS, results=True, keep=True):
    with run_folder(output, config, FILES) as run:
        run.begin(contents)
        if results:
            (output / "state" / "step-1").mkdir(parents=True, exist_ok=True)
            (output / "state" / "step-1" / "weights").write_text(str(config))
        if keep:
            run.keep()


def test_the_config_is_kept_and_the_same_run_continues(tmp_path):
    start(tmp_path / "run")
    start(tmp_path / "run", CONFIG | {"num_workers": 2})
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept == {"training": {"steps": 3}, "data": {"a": {"batch": 1}}, "contents": CONTENTS}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "state"]


def test_a_run_that_made_nothing_may_start_with_another_config(tmp_path):
    start(tmp_path, CONFIG | {"training": {"steps": -1}}, results=False)
    start(tmp_path, CONFIG, {"data": {}})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"steps": 3}


def test_a_run_without_a_state_is_taken_over_with_a_log_line(tmp_path, caplog):
    start(tmp_path, results=False)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-1.0123abcd.tmp").mkdir()
    (tmp_path / "notes.txt").touch()
    with caplog.at_level("INFO"):
        start(tmp_path, results=False)
        assert not caplog.text and (tmp_path / "state").exists()  # the same run starts again
        start(tmp_path, CONFIG | {"training": {"steps": 4}}, results=False)
    assert f"{tmp_path}" in caplog.text and "training.steps was 3, is 4" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


def test_a_failure_is_recorded_unless_the_folder_holds_a_run(tmp_path):
    def fail(config):
        with pytest.raises(ZeroDivisionError), failure_recorded(Run(tmp_path, config, FILES)):
            raise ZeroDivisionError

    start(tmp_path, results=False)
    fail(CONFIG | {"training": {"steps": 4}})
    assert (tmp_path / "failure.txt").exists()
    (tmp_path / "failure.txt").unlink()
    start(tmp_path)
    fail(CONFIG | {"training": {"steps": 4}})
    assert not (tmp_path / "failure.txt").exists()


def test_another_config_is_refused_with_its_differences(tmp_path):
    start(tmp_path)
    other = CONFIG | {"training": {"steps": 4}, "data": {"b": {"batch": 1}}}
    entered = False
    with (
        pytest.raises(UserError, match=r"training\.steps was 3, is 4\).*overwrite=true") as caught,
        run_folder(tmp_path, other, FILES),
    ):
        entered = True
    assert not entered
    assert "data.a was {'batch': 1}, is 'absent'; data.b was 'absent', is {'batch': 1}" in str(caught.value)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"steps": 3}


def test_other_contents_are_refused_by_what_differs(tmp_path):
    start(tmp_path)
    with pytest.raises(UserError, match=r"contents\.data\.files was '0b', is '0c'"):
        start(tmp_path, contents={"data": {"captions": "0a", "files": "0c"}})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["contents"] == CONTENTS


def test_what_may_change_may_change_and_no_key_that_begins_alike(tmp_path):
    start(tmp_path, {"shots": [0], "shots_of": 3})
    start(tmp_path, {"shots": [0, 4], "shots_of": 3})
    with pytest.raises(UserError, match="shots_of was 3, is 4"):
        start(tmp_path, {"shots": [0], "shots_of": 4})


def test_a_folder_that_was_moved_or_is_named_otherwise_continues(tmp_path):
    config = {"output": "here", "outputs_kept": 1}
    start(tmp_path / "here", config)
    (tmp_path / "here").rename(tmp_path / "there")
    start(tmp_path / "there", config | {"output": "there"})
    with pytest.raises(UserError, match="outputs_kept was 1, is 2"):
        start(tmp_path / "there", config | {"outputs_kept": 2})


def test_a_damaged_config_is_named(tmp_path):
    start(tmp_path)
    (tmp_path / "config.yaml").write_text("training: {steps")
    with pytest.raises(UserError, match=r"config\.yaml"):
        start(tmp_path)


def hold(output, ready):
    with run_folder(output, CONFIG, FILES):
        ready.send(None)
        time.sleep(60)


def test_a_second_start_is_refused_with_the_first_ones_process(tmp_path):
    processes = multiprocessing.get_context("fork")
    mine, theirs = processes.Pipe()
    process = processes.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    mine.recv()
    with pytest.raises(UserError, match=rf"{tmp_path} is in use by process {process.pid} on"):
        start(tmp_path)
    process.kill()
    process.join()
    start(tmp_path)


# ------------------------------------------------------------------------------- overwriting

NEW = CONFIG | {"training": {"steps": 4}, "overwrite": True}


def earlier_run(output):
    start(output)
    for name in ("scores.json", "overrides.yaml", "evaluate-a.yaml", "notes.txt"):
        (output / name).write_text("earlier")


def contents(output):
    files = [path for path in output.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(output)): path.read_text() for path in files}


def test_overwriting_removes_only_what_the_earlier_run_made(tmp_path):
    earlier_run(tmp_path)
    start(tmp_path, NEW, keep=False)  # ending well keeps it, too
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt", "state"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"steps": 4}


def test_the_earlier_run_is_in_previous_until_the_new_one_saves(tmp_path):
    earlier_run(tmp_path)
    before = contents(tmp_path)
    with run_folder(tmp_path, NEW, FILES) as run:
        assert contents(tmp_path) == before
        run.begin(CONTENTS)
        of_the_run = {name: text for name, text in before.items() if name != "notes.txt"}
        assert of_the_run.items() <= contents(tmp_path / ".previous").items()
        assert not (tmp_path / "state").exists() and (tmp_path / "notes.txt").exists()
        run.keep()
        assert not (tmp_path / ".previous").exists()


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, ZeroDivisionError])
def test_the_earlier_run_returns_if_the_new_one_saves_nothing(tmp_path, error):
    earlier_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(error), run_folder(tmp_path, NEW, FILES) as run:
        run.begin(CONTENTS)
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "half").touch()
        raise error
    assert contents(tmp_path) == before


def test_the_new_run_stays_if_it_ends_after_a_save(tmp_path):
    earlier_run(tmp_path)
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path, NEW, FILES) as run:
        run.begin(CONTENTS)
        (tmp_path / "state").mkdir()
        run.keep()
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt", "state"]


def killed_after(renames, work, *arguments):
    """The exit status of a process that is killed after ``renames`` renames; 0 if its work was done before."""
    if (pid := os.fork()) == 0:
        left = iter(range(renames, -1, -1))
        next(left)
        for name in ("rename", "replace"):
            setattr(Path, name, killing(getattr(Path, name), left))
        work(*arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killing(rename, left):
    def rename_and_perhaps_kill(self, target):
        rename(self, target)
        if next(left, None) == 0:
            os._exit(9)

    return rename_and_perhaps_kill


def test_a_kill_while_overwriting_leaves_one_of_the_runs(tmp_path):
    renames, outcomes = 0, []
    while True:
        renames += 1
        output = tmp_path / str(renames)
        earlier_run(output)
        before = contents(output)
        status = killed_after(renames, start, output, NEW)
        with run_folder(output, CONFIG | {"overwrite": True}, FILES):
            after = contents(output)
        assert not [path.name for path in output.iterdir() if path.name.startswith(".previous")]
        outcomes.append(after == before)
        if after != before:
            assert "'steps': 4" in after["state/step-1/weights"] and "scores.json" not in after
        if status == 0:
            break
    assert outcomes.index(False) > 6 and not any(outcomes[outcomes.index(False) :])


def enter(output):
    with run_folder(output, CONFIG, FILES):
        pass


def test_a_kill_during_the_return_is_repaired_at_the_next_start(tmp_path):
    for renames in range(1, 8):
        output = tmp_path / str(renames)
        earlier_run(output)
        before = contents(output)
        assert killed_after(7, start, output, NEW) == 9
        killed_after(renames, enter, output)
        with run_folder(output, CONFIG, FILES):
            assert contents(output) == before


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "work", "is_saved"),
    [
        ("state/step-00000001", make, True),
        ("state/step-00000001.tmp", make, False),
        ("scores.json", lambda path: path.write_text("a line\nhalf"), True),
        ("scores.json", lambda path: path.write_text("half"), False),
        ("scores.json", Path.touch, False),
    ],
)
def test_a_run_killed_after_its_first_state_keeps_its_place(tmp_path, name, work, is_saved):
    """The kill comes before the earlier run is removed."""
    earlier_run(tmp_path)
    before = contents(tmp_path)
    if (pid := os.fork()) == 0:
        with run_folder(tmp_path, NEW, FILES) as run:
            run.begin(CONTENTS)
            work(tmp_path / name)
            os._exit(9)
    os.waitpid(pid, 0)
    with run_folder(tmp_path, NEW, FILES):
        assert not (tmp_path / ".previous").exists()
        assert (contents(tmp_path) == before) == (not is_saved)
        if is_saved:
            assert (tmp_path / name).exists() and "steps: 4" in contents(tmp_path)["config.yaml"]


def test_an_interrupt_after_the_first_state_keeps_the_new_run(tmp_path):
    earlier_run(tmp_path)
    with pytest.raises(KeyboardInterrupt), run_folder(tmp_path, NEW, FILES) as run:
        run.begin(CONTENTS)
        make(tmp_path / "state" / "step-00000001")
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt", "state"]


def test_a_model_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="outputs/nothing/here"):
        model_contents("outputs/nothing/here")
