"""Launchers: torchrun on one and on two machines, accelerate, and submitit; signals, requeue, and lost processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.helpers.slurm import make_slurm
from tests.helpers.small_runs import SMALL_DEMO

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
#: A training that lasts for some seconds and saves a state only when it ends.
LONG = (
    *("experiments.train", *SMALL_DEMO, "training.sample_every=0"),
    *("training.steps=40", "training.log_every=1", "training.save_every=1000"),
)
#: A training of four steps.
SHORT = (*LONG, "training.steps=4")
#: A program whose processes exchange tensors.
EXCHANGE = """
import time
import torch
from torch import distributed
from flamingo.utils.process_group import leave_at_exit
distributed.init_process_group("gloo")
groups = [None, distributed.new_group(backend="gloo")]
for _ in range(50):
    for group in groups:
        distributed.all_reduce(torch.ones(3000), group=group)
leave_at_exit()
if distributed.get_rank() == 0:
    time.sleep(0.3)
"""
#: The batch that one process makes where each of two processes makes two documents.
WHOLE_BATCH = "data.documents.captions.batch_size=4"


_started = []


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    while _started:
        with suppress(ProcessLookupError):
            os.killpg(_started.pop().pid, signal.SIGKILL)


def start(*arguments):
    """Starts a program of Python, with its processes in a group of their own."""
    program = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _started.append(program)
    return program


def torchrun(*arguments, options=()):
    """Starts a command in two processes."""
    return start("torch.distributed.run", "--standalone", "--nproc_per_node=2", *options, "-m", *arguments)


def finish(program, seconds=240):
    """Returns what a program has printed, and its status."""
    try:
        printed, _ = program.communicate(timeout=seconds)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
    return printed, program.returncode


def history(output):
    """Returns the steps, losses and norms of a run."""
    path = output / "history.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(record["step"], record["loss"], record["gradient_norm"], record["tokens"]) for record in records]


def wait_until(condition, program, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert program.poll() is None, program.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(program):
    """Returns the processes that train."""
    return [process for process in tree(program) if "LOCAL_RANK" in process.environ()]


def terminate(program):
    """Ends all processes of a program, as SLURM does with those of a step."""
    for process in [psutil.Process(program.pid), *tree(program)]:
        process.send_signal(signal.SIGTERM)


def tree(program):
    return psutil.Process(program.pid).children(recursive=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The history of the short run in one process."""
    output = tmp_path_factory.mktemp("alone")
    printed, status = finish(start(*SHORT, f"output={output}", WHOLE_BATCH))
    assert status == 0, printed
    return history(output)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of the long run in two processes."""
    output = tmp_path_factory.mktemp("uninterrupted")
    printed, status = finish(torchrun(*LONG, f"output={output}"))
    assert status == 0, printed
    return output


def assert_near(found, expected):
    assert [row[0] for row in found] == [row[0] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def free_port():
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return connection.getsockname()[1]


def test_two_agents_of_torchrun_train_one_run(alone, tmp_path):
    rendezvous = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=test")
    endpoint = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    command = (*SHORT, f"output={tmp_path}", "parallel=fsdp2")
    agents = [
        start("torch.distributed.run", *rendezvous, endpoint, f"--node_rank={rank}", "-m", *command) for rank in (0, 1)
    ]
    ends = [finish(agent) for agent in agents]
    assert [status for _, status in ends] == [0, 0], ends
    assert_near(history(tmp_path), alone)


def test_accelerate_starts_processes_on_a_cpu(alone, tmp_path):
    options = ("--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    printed, status = finish(start("accelerate.commands.launch", *options, "-m", *SHORT, f"output={tmp_path}"))
    assert status == 0, printed
    assert_near(history(tmp_path), alone)


def test_after_sigterm_to_a_step_of_slurm_the_run_resumes(uninterrupted, tmp_path):
    program = torchrun(*LONG, f"output={tmp_path}", "num_workers=1")
    wait_until(lambda: len(history(tmp_path)) >= 5, program)
    terminate(program)  # also the workers of the loader
    printed, status = finish(program)
    assert status != 0
    assert printed.count("Stopped after step") == 2
    done = len(history(tmp_path))
    assert 5 <= done < 40
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"step-{done:08d}"]
    assert not (tmp_path / "failure.txt").exists()
    printed, status = finish(torchrun(*LONG, f"output={tmp_path}"))
    assert status == 0, printed
    assert history(tmp_path) == history(uninterrupted)


def test_processes_that_end_one_after_another_do_not_abort(tmp_path):
    """Without leave_at_exit gloo aborts five of six of them."""
    (tmp_path / "program.py").write_text(EXCHANGE)
    program = start("torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "program.py"))
    printed, status = finish(program)
    assert status == 0, printed


def test_a_signal_to_one_process_stops_all(tmp_path):
    program = torchrun(*LONG, f"output={tmp_path}")
    wait_until(lambda: len(history(tmp_path)) >= 2, program)
    workers(program)[1].send_signal(signal.SIGUSR1)
    printed, _ = finish(program)
    assert printed.count(f"Stopped after step {len(history(tmp_path))},") == 2


def test_after_the_death_of_a_process_nothing_is_saved(tmp_path):
    """torchrun sends SIGTERM to the others, as a cluster that ends a job."""
    program = torchrun(*LONG, f"output={tmp_path}")
    wait_until(lambda: len(history(tmp_path)) >= 2, program)
    workers(program)[1].kill()
    printed, status = finish(program)
    assert status != 0
    assert "Another process of this run has ended" in printed
    assert "Traceback" in printed
    assert not list((tmp_path / "state").glob("step-*"))


def test_torchrun_may_start_processes_again(uninterrupted, tmp_path, monkeypatch):
    """By default it does so with the store of the processes before, who left their addresses in it."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    program = torchrun(*LONG, f"output={tmp_path}", "training.save_every=3", options=["--max_restarts=1"])
    wait_until(lambda: len(history(tmp_path)) >= 5, program)
    workers(program)[0].kill()
    printed, status = finish(program)
    assert status == 0, printed
    assert history(tmp_path) == history(uninterrupted)


def test_a_terminated_evaluation_continues(uninterrupted, tmp_path):
    """Its processes end at once: the predictions so far are in a file."""
    evaluation = ("experiments.evaluate", f"run={uninterrupted}", f"output={tmp_path}")
    evaluation += ("task.num_queries=100", "shots=[0,2,4,8]", "text_only=false", "controls=[]")
    predictions = tmp_path / "predictions.jsonl"
    program = torchrun(*evaluation)
    wait_until(lambda: predictions.exists() and predictions.read_text(), program)
    terminate(program)
    printed, status = finish(program)
    assert status != 0
    assert not (tmp_path / "scores.json").exists()
    done = predictions.read_text()
    printed, status = finish(torchrun(*evaluation))
    assert status == 0, printed
    assert predictions.read_text().startswith(done)
    assert predictions.read_text().count("\n") == 400
    assert (tmp_path / "scores.json").exists()


def test_tasks_of_submitit_save_together_and_are_requeued(uninterrupted, tmp_path):
    program = start(LONG[0], "-m", *LONG[1:], "hydra/launcher=local_processes", f"output={tmp_path}")
    wait_until(lambda: len(history(tmp_path)) >= 5, program)
    tasks = [process for process in tree(program) if "SUBMITIT_LOCAL_GLOBALID" in process.environ()]
    assert len(tasks) == 2
    for task in tasks:
        task.send_signal(signal.SIGUSR2)
    printed, status = finish(program)
    assert status == 0, printed
    assert history(tmp_path) == history(uninterrupted)
    [log] = tmp_path.glob(".submitit/*/*_0_log.err")
    assert log.read_text().count("Stopped after step") == 1


def test_nodes_of_slurm_save_together_and_are_requeued(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{make_slurm(tmp_path)}:{os.environ['PATH']}")
    launcher = ("hydra/launcher=slurm_nodes", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1")
    launcher += ("hydra.launcher.gpus_per_node=null", "hydra.launcher.partition=some")
    output = tmp_path / "run"
    program = start(LONG[0], "-m", *LONG[1:], *launcher, f"output={output}")
    wait_until(lambda: len(history(output)) >= 5, program)
    processes = [process for process in psutil.process_iter(["cmdline", "environ"]) if process.info["environ"]]
    of_run = [process for process in processes if f"{output}/.submitit" in " ".join(process.info["cmdline"])]
    [task] = [process for process in of_run if process.info["environ"].get("SLURM_PROCID") == "1"]
    task.send_signal(signal.SIGUSR2)  # rank 0 requeues the job, also if it has not got the signal itself
    printed, status = finish(program)
    assert status == 0, printed
    assert history(output) == history(uninterrupted)
    script = (tmp_path / "script").read_text()
    for option in ("nodes=2", "ntasks-per-node=1", "signal=USR2@180", "partition=some", "time=1440"):
        assert f"#SBATCH --{option}\n" in script
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
