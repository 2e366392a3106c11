"""The script for sbatch in docs/scaling.md, with programs in place of those of SLURM."""

import os
import re
import signal
import subprocess
import time

import pytest

from tests.helpers.documented_code import PAGES

#: A step runs until SIGTERM reaches it, or ends by itself if END is set.
SRUN = """#!/bin/bash
echo "$@" > arguments
trap 'sleep 0.2; touch saved; exit 1' TERM
echo $$ > step
[ -n "$END" ] && exit 3
for i in {1..200}; do sleep 0.1; done
"""
SCANCEL = """#!/bin/bash
[ "$*" = "--signal=TERM 7" ] && kill -TERM $(cat step)
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node07\\nnode08\\n'; fi
if [ "$1" = requeue ]; then ls saved > requeued-$2; fi
"""


@pytest.fixture
def job(tmp_path):
    """Starts the script in a folder, as the shell of a job."""
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    [script] = re.findall(r"```bash\n(.*?)```", PAGES["docs/scaling.md"], re.DOTALL)
    (tmp_path / "script").write_text(script)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}

    def begin(**variables):
        return subprocess.Popen(["bash", "script"], cwd=tmp_path, env=environment | variables)

    return begin


def test_a_job_whose_time_is_over_saves_and_goes_back(job, tmp_path):
    shell = job()
    deadline = time.monotonic() + 20
    while not (tmp_path / "step").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(timeout=20) == 1  # torchrun's after a signal
    assert (tmp_path / "requeued-7").read_text() == "saved\n"  # not before the step has ended
    assert "--rdzv_endpoint node07:29500" in (tmp_path / "arguments").read_text()


def test_a_job_that_ends_by_itself_does_not_go_back(job, tmp_path):
    assert job(END="1").wait(timeout=20) == 3
    assert (tmp_path / "arguments").exists()
    assert not list(tmp_path.glob("requeued*"))
