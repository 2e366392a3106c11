"""Jobs of submitit: requeue, and tasks as the processes of one run."""

import os
import signal

import pytest

from experiments.cli.hydra_config import user_errors
from experiments.cli.submitit_job import join_tasks
from flamingo.utils.errors import Stopped


@pytest.fixture
def requeued(monkeypatch):
    """The ranks that have been requeued by a handler like submitit's."""
    ranks = []

    def handler(number, frame):
        if os.environ["RANK"] == "0":
            ranks.append(0)
            raise SystemExit(144)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    before = signal.signal(signal.SIGUSR2, handler)
    yield ranks
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("rank", "status"), [("0", 144), ("1", 0)])
def test_the_main_task_requeues_and_no_task_fails_before(requeued, monkeypatch, capsys, rank, status):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as end, user_errors():
        raise Stopped("Stopped after step 3", signal.SIGUSR2)
    assert (end.value.code, len(requeued)) == (status, 1 - int(rank))
    assert capsys.readouterr().err == "Stopped after step 3\n"


@pytest.mark.parametrize(("number", "executor"), [(signal.SIGTERM, "local"), (signal.SIGUSR2, None)])
def test_other_signals_and_other_launchers_do_not_requeue(requeued, monkeypatch, number, executor):
    monkeypatch.setenv("RANK", "0")
    if executor is None:
        monkeypatch.delenv("SUBMITIT_EXECUTOR")
    with pytest.raises(SystemExit) as end, user_errors():
        raise Stopped("Stopped after step 3", number)
    assert (end.value.code, requeued) == (128 + number, [])


def test_tasks_of_slurm_are_processes_of_one_run(monkeypatch):
    pytest.importorskip("submitit")
    task = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1"}
    task |= {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "node[07-08]"}
    environment = {"SUBMITIT_EXECUTOR": "slurm", "CUDA_VISIBLE_DEVICES": "4,5"} | task
    monkeypatch.setattr(os, "environ", environment)
    join_tasks()
    joined = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node07"}
    assert environment.items() >= joined.items()
    assert environment["CUDA_VISIBLE_DEVICES"] == "4,5"  # SLURM may have given the others to another job


@pytest.mark.parametrize("environment", [{}, {"SUBMITIT_EXECUTOR": "local"}])
def test_a_single_process_stays_one(monkeypatch, environment):
    environment = environment | {"SUBMITIT_LOCAL_NTASKS": "1"}
    monkeypatch.setattr(os, "environ", environment)
    join_tasks()
    assert "RANK" not in environment
