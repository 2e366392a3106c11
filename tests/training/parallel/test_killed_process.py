"""A process of a sharded training is killed: the others stop and save nothing, and any number of processes resumes."""

import os
import shutil
import signal
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain

import pytest

from flamingo.training import ParallelConfig, TrainingConfig, state
from flamingo.training.loop import train
from flamingo.training.losses.next_token import next_token
from flamingo.training.optim import AdamWConfig
from flamingo.training.state_files import write_tensors
from flamingo.utils.devices import processes
from tests.helpers.forked import run_processes, values_of_processes
from tests.training.parallel.cases import pages
from tests.training.parallel.comparison import error_of_numbers, error_of_weights
from tests.training.parallel.recorded_run import weights_of
from tests.training.runs import history

pytestmark = pytest.mark.full

FSDP2 = ParallelConfig("fsdp2")
OPTIMIZER = AdamWConfig(lr=1e-3, warmup_steps=2, schedule="cosine")
CONFIG = TrainingConfig(steps=12, log_every=1, save_every=3)


@dataclass
class Kill:
    """The process that is killed, the step, and what it does then: forward, backward, or write its part of a state."""

    rank: int
    step: int
    during: str


def noted_run(training, parallel, output, kill=None):
    """Returns the documents of this process in each step, and the weights."""
    drawn = []

    def end_in(during, step):
        if kill == Kill(processes().process_index, step, during):
            os.kill(os.getpid(), signal.SIGKILL)

    def loss_until_killed(model, batch, count):
        drawn.append(batch.ids)
        end_in("forward", len(drawn))
        loss = next_token(model, batch, count)
        loss.register_hook(lambda _: end_in("backward", len(drawn)))
        return loss

    def write_until_killed(folder, *arguments):
        end_in("write", int(folder.name.removeprefix("step-")))
        write_tensors(folder, *arguments)

    if kill is not None:
        state.write_tensors = write_until_killed  # in this process, which is a forked one
    model = deepcopy(training.model)
    (data_set,) = training.data_sets()
    train(model, [replace(data_set, loss=loss_until_killed)], OPTIMIZER, CONFIG, output, parallel=parallel)
    return drawn, weights_of(model)


def kill_one(training, kill, output):
    """Trains in four processes, of which one is killed."""
    ended = run_processes(4, noted_run, training, FSDP2, output, kill, seconds=90)
    codes = [one.exitcode for one in ended]
    assert codes.pop(kill.rank) == -signal.SIGKILL
    assert codes == [1, 1, 1], "the other processes end with an error"


def newest_state(output):
    """The step of the newest complete state; 0: none."""
    markers = output.glob("state/*/complete.json")
    return max((int(marker.parent.name.removeprefix("step-")) for marker in markers), default=0)


@pytest.fixture(scope="module")
def never_killed(backbones, tmp_path_factory):
    """The training, and its documents of each step, weights and records in one process."""
    training, output = pages(backbones, p_next=0.5), tmp_path_factory.mktemp("never-killed")
    drawn, weights = noted_run(training, ParallelConfig(), output)
    return training, drawn, weights, history(output)


@pytest.fixture(scope="module")
def killed(never_killed, tmp_path_factory):
    """The folder of a run that was killed some steps after a state."""
    output = tmp_path_factory.mktemp("killed")
    kill_one(never_killed[0], Kill(3, 9, "backward"), output)
    return output


@pytest.mark.parametrize(
    ("kill", "newest"),
    [
        (Kill(2, 2, "backward"), [0]),
        (Kill(0, 5, "forward"), [0, 3]),  # the thread that writes may have been quick or slow
        (Kill(1, 7, "forward"), [3, 6]),
        (Kill(3, 6, "write"), [3]),
    ],
    ids=["backward of 2", "forward of 5", "forward of 7", "writing of 6"],
)
def test_the_others_end_with_an_error_and_save_nothing(never_killed, tmp_path, kill, newest):
    kill_one(never_killed[0], kill, tmp_path)
    assert newest_state(tmp_path) in newest
    steps = [record["step"] for record in history(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    # A state is written when its step is done, and perhaps the next one.
    assert len(steps) in ([kill.step, kill.step + 1] if kill.during == "write" else [kill.step - 1])


@pytest.mark.parametrize("size", [4, 2, 1])
def test_any_number_of_processes_resumes(never_killed, killed, tmp_path, size):
    training, drawn, weights, records = never_killed
    output = tmp_path / "resumed"
    shutil.copytree(killed, output)
    newest = newest_state(output)
    assert newest in (3, 6)
    results = values_of_processes(size, noted_run, training, FSDP2, output)
    shares_of_steps = zip(*(drawn_by_one for drawn_by_one, _ in results), strict=True)
    assert [list(chain(*shares)) for shares in shares_of_steps] == drawn[newest:]
    resumed = history(output)
    assert [record["step"] for record in resumed] == list(range(1, CONFIG.steps + 1))
    for key in ("loss", "gradient_norm"):
        numbers = [[record[key] for record in run] for run in (resumed, records)]
        assert error_of_numbers(*numbers) <= 1e-6
    assert error_of_weights(results[0][1], weights) <= 1e-6
