"""States are written by a thread: from a copy, one at a time, and with errors that end the training."""

import os
import pickle
import shutil
import signal
import threading
import time

import pytest
import torch
from torch import nn

from flamingo.training import TrainingConfig
from flamingo.training import state as state_module
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import make_schedule
from flamingo.training.state import Progress, StateFolder
from flamingo.training.state_files import (
    checksums_of,
    complete_states,
    mark_complete,
    read_tensors,
    saved_tensors,
    write_tensors,
)
from flamingo.training.step import DataSet
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from tests.helpers.forked import run_processes, values_of_processes
from tests.helpers.states import state_folder
from tests.training.runs import Listed, batch, make_model


def states_of(output, model=None, keep_every=0):
    """Of a model after one step."""
    torch.manual_seed(0)
    model = model or nn.Linear(3, 2)
    optimizer = make_optimizer(model, AdamWConfig(lr=0.1))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = make_schedule(optimizer, AdamWConfig(lr=0.1), 10)
    return StateFolder(output / "state", {}, model, optimizer, schedule, [], keep_every)


@pytest.fixture
def held(monkeypatch):
    """Writing waits for this event."""
    event = threading.Event()

    def write(*args):
        assert event.wait(timeout=60)
        write_tensors(*args)

    monkeypatch.setattr(state_module, "write_tensors", write)
    return event


def test_what_trains_on_does_not_reach_the_state(tmp_path, held):
    states = states_of(tmp_path)
    before = states.model.weight.detach().clone()
    moment = states.optimizer.state[states.model.weight]["exp_avg"].clone()
    folder = states.save(Progress(step=1))
    states.model(torch.ones(1, 3)).square().sum().backward()
    states.optimizer.step()
    states.schedule.step()
    assert not torch.equal(states.model.weight, before)
    assert complete_states(tmp_path / "state") == []
    held.set()
    assert states.finish()
    assert complete_states(tmp_path / "state") == [folder]
    saved = read_tensors(folder)
    assert torch.equal(saved["parameters.weight"], before)
    assert torch.equal(saved["optimizer.exp_avg.weight"], moment)
    assert states.restore() == Progress(step=1)
    assert torch.equal(states.model.weight, before)


def test_a_state_cannot_begin_before_the_last_is_finished(tmp_path, held):
    states = states_of(tmp_path)
    states.save(Progress(step=1))
    with pytest.raises(AssertionError, match="not finished"):
        states.save(Progress(step=2))
    held.set()
    assert states.finish()
    assert not states.finish()


def test_an_error_of_the_thread_is_raised_by_the_next_wait(tmp_path, monkeypatch):
    def write(*_):
        raise UserError("no space")

    monkeypatch.setattr(state_module, "write_tensors", write)
    states = states_of(tmp_path)
    states.save(Progress(step=1))
    with pytest.raises(UserError, match="no space"):
        states.finish()
    assert complete_states(tmp_path / "state") == []
    with pytest.raises(UserError, match="no space"), states:
        states.save(Progress(step=2))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_of_the_training_the_state_is_finished(tmp_path, held, error):
    states = states_of(tmp_path)
    with pytest.raises(error), states:
        states.save(Progress(step=1))
        threading.Timer(0.1, held.set).start()
        raise error
    assert complete_states(tmp_path / "state") == [state_folder(tmp_path, 1)]


def test_a_failing_thread_does_not_hide_the_training_error(tmp_path, monkeypatch, caplog):
    def write(*_):
        raise UserError("no space")

    monkeypatch.setattr(state_module, "write_tensors", write)
    states = states_of(tmp_path)
    with pytest.raises(ZeroDivisionError), states:
        states.save(Progress(step=1))
        raise ZeroDivisionError
    assert "no space" in caplog.text


def test_a_training_goes_on_while_its_state_is_written(backbones, tmp_path, held):
    complete = []

    def on_log(record):
        complete.append(len(complete_states(tmp_path / "state")))
        if record["step"] == 3:
            held.set()

    config = TrainingConfig(steps=4, log_every=1, save_every=2)
    data_sets = [DataSet("pairs", Listed(batch([3])))]
    train(make_model(backbones), data_sets, AdamWConfig(), config, tmp_path, Callbacks(on_log=on_log))
    assert complete[:3] == [0, 0, 0]
    assert complete_states(tmp_path / "state") == [state_folder(tmp_path, 4)]


def test_the_newest_and_each_nth_state_are_kept(tmp_path):
    states = states_of(tmp_path, keep_every=4)
    for step in (2, 4, 5, 6, 8, 9, 10):
        states.save(Progress(step=step))
        states.finish()
    steps = [int(folder.name.removeprefix("step-")) for folder in complete_states(tmp_path / "state")]
    assert steps == [4, 8, 10]
    assert len(list((tmp_path / "state").iterdir())) == 3
    shutil.copytree(tmp_path / "state" / "step-00000008", tmp_path / "state" / "step-copy")
    assert states.restore() == Progress(step=10)
    assert (tmp_path / "state" / "step-copy").exists()


def test_a_file_that_names_code_is_refused(tmp_path):
    """The list of tensors is a pickle, which could call any function."""
    states = states_of(tmp_path)
    folder = states.save(Progress(step=1))
    states.finish()
    (folder / ".metadata").write_bytes(pickle.dumps(time.sleep))
    (folder / "complete.json").unlink()
    mark_complete(folder, checksums_of(folder, ("*",)))
    with pytest.raises(UserError, match=r"metadata.*time\.sleep"):
        saved_tensors(folder)
    with pytest.raises(UserError, match=r"metadata.*time\.sleep"):
        states.restore()


# ------------------------------------------------------------------------------- several processes


@pytest.mark.full
def test_a_full_disk_of_one_process_is_the_error_of_all(tmp_path, monkeypatch):
    def save():
        states = states_of(tmp_path)
        if processes().process_index == 1:
            monkeypatch.setattr(state_module, "write_bytes", full)
        states.save(Progress(step=1))
        with pytest.raises(UserError, match="no space"):
            states.finish()

    def full(*_):
        raise UserError("no space")

    values_of_processes(2, save)
    assert complete_states(tmp_path / "state") == []


@pytest.mark.full
def test_all_processes_name_the_file_that_one_finds_damaged(tmp_path):
    def save():
        states = states_of(tmp_path)
        states.save(Progress(step=1))
        states.finish()

    def restore():
        with pytest.raises(UserError) as error:
            states_of(tmp_path).restore()
        return str(error.value)

    values_of_processes(2, save)
    for name in ("__0_0.distcp", "__1_0.distcp"):
        file = state_folder(tmp_path, 1) / name
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        errors = values_of_processes(2, restore)
        assert errors[0] == errors[1] and errors[0].startswith(f"{file} is damaged")
        file.write_bytes(content)


@pytest.mark.full
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_leaves_no_complete_state(tmp_path, monkeypatch, killed):
    """Killed when the tensors of all are written; the other one ends with an error."""

    def save():
        states = states_of(tmp_path)
        states.save(Progress(step=1))
        states.finish()
        if processes().process_index == killed:
            monkeypatch.setattr(state_module, "write_bytes", kill)
        states.save(Progress(step=2))
        states.finish()

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    ended = run_processes(2, save)
    assert ended[killed].exitcode == -signal.SIGKILL
    assert ended[1 - killed].exitcode == 1 and "finish" in ended[1 - killed].error
    assert complete_states(tmp_path / "state") == [state_folder(tmp_path, 1)]
    assert state_folder(tmp_path, 2).exists()
    states = states_of(tmp_path)
    assert states.restore() == Progress(step=1)
    assert not state_folder(tmp_path, 2).exists()


@pytest.mark.full
def test_buffers_that_differ_are_those_of_the_main_process(tmp_path):
    def save():
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False))
        model[1].running_mean.fill_(processes().process_index + 5.0)
        model[1].eval()
        states = states_of(tmp_path, model)
        states.save(Progress(step=1))
        states.finish()

    values_of_processes(3, save)
    assert read_tensors(state_folder(tmp_path, 1), "buffers.")["1.running_mean"].tolist() == [5.0] * 4
