"""Errors as sentences, signals, and memory."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import train
from experiments.cli.command import termination
from experiments.cli.hydra_config import user_errors
from flamingo.utils.errors import Stopped, UserError


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
def test_sigterm_ends_a_command_as_ctrl_c_does(capfd, signals, status):
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


def test_sigterm_that_torchrun_repeats_lets_a_command_tidy_up(capfd, monkeypatch):
    """SLURM sends it to all processes of a step, and torchrun passes its own on to its processes."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(SystemExit) as end, user_errors(), termination():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            print("tidied")
    assert end.value.code == 143
    assert capfd.readouterr().out == "tidied\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR])
def test_system_errors_of_the_users_files_name_the_file(capsys, number):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise OSError(number, os.strerror(number), "outputs/demo/train.log")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: outputs/demo/train.log: {os.strerror(number)}\n"


def test_an_output_that_cannot_be_made_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["train", f"output={tmp_path}/file/run"])
    with pytest.raises(SystemExit) as caught:
        train.main()
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said == f"error: output={tmp_path}/file/run cannot be written: {tmp_path}/file is a file, not a folder\n"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "ours"),
        AssertionError("an invariant"),
        ValueError("of torch"),
        KeyError("a field"),
    ],
)
def test_every_other_error_keeps_its_trace(error):
    with pytest.raises(type(error)), user_errors():
        raise error


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trainig.steps=3"], "trainig"),  # a key
        (["model/vision=mobilnet"], "model/vision=mobilnet"),  # a group's choice
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


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_memory_that_was_left_is_kept():
    """A page that was given back and comes again is a fault: of 100 MB there would be 24,000 each time."""
    measure = (
        "import resource, torch; from flamingo.utils.memory import keep_memory; keep_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(25_000_000); before = faults()\n"
        "for _ in range(5): torch.ones(25_000_000)\n"
        "print(faults() - before)"
    )
    faults = []
    # The heap of a process may have no room to grow where the system has put it, by chance: glibc then maps memory.
    while len(faults) < 4 and min(faults, default=122_000) > 50_000:
        result = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
        faults.append(int(result.stdout))
    assert min(faults) < 50_000  # of 122,000
