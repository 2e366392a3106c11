"""States are written as a whole or not at all, are small, and are refused by other runs."""

import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig
from flamingo.training.random_states import random_states, set_random_states, untouched_random_states
from flamingo.training.state import Progress, StateFolder
from flamingo.training.state_files import checksums_of, complete_states, mark_complete, read_tensors, write_tensors
from flamingo.training.step import DataSet
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.disk import full_disk
from tests.helpers.states import read_state, state_folder
from tests.training.runs import Listed, batch, history, make_model, trained

CONFIG = {"steps": 4, "log_every": 1, "save_every": 2}


def run(model, output, names=("a", "b"), lr=1e-3, weight=1.0, **config):
    sets = [DataSet(name, Listed(batch([3]), batch([4])), weight) for name in names]
    train(model, sets, AdamWConfig(lr=lr), TrainingConfig(**{**CONFIG, **config}), output)


@pytest.fixture(scope="module")
def finished(backbones, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    run(make_model(backbones), output)
    return output


def test_one_state_is_kept_and_holds_only_what_trains(backbones, finished):
    assert [path.name for path in (finished / "state").iterdir()] == ["step-00000004"]
    state = read_state(finished, 4)
    names = make_model(backbones).trainable_parameter_names()
    assert state["parameters"].keys() == set(names)
    moments = {f"{kind}.{name}" for name in names for kind in ("exp_avg", "exp_avg_sq", "step")}
    assert state["optimizer"].keys() == moments
    assert state["positions"] == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "c")}, r"data sets.*\['a .*', 'b .*'\].*\['a .*', 'c .*'\]"),
        ({"names": ("b", "a")}, "data sets"),
        ({"weight": 2.0}, r"a with weight 1\.0.*a with weight 2\.0"),
        ({"lr": 0.1}, r"optimizer\.lr.*0\.001.*0\.1"),
        ({"seed": 5}, r"training\.seed.*0.*5"),
        ({"steps": 3}, r"training\.steps.*4.*3"),
        ({"accumulate": 2, "mixing": "round_robin"}, r"accumulate.*1.*2.*mixing.*accumulated"),
        ({"precision": "bf16"}, r"training\.precision.*fp32.*bf16"),
    ],
)
def test_the_state_of_another_run_is_refused_with_what_differs(backbones, finished, change, message):
    model = make_model(backbones)
    before = trained(model)
    with pytest.raises(UserError, match=f"step-00000004.*{message}"):
        run(model, finished, **change)
    assert all(torch.equal(weight, before[name]) for name, weight in trained(model).items())
    assert len(history(finished)) == 4


def test_a_state_of_another_model_is_refused_by_its_parameters(backbones, finished):
    other = tiny.flamingo(backbones, connector={"num_latents": 6}, fusion={"offset": 0})
    with pytest.raises(UserError) as error:
        run(other, finished)
    assert "parameters.connector.latents was 'float32 [5, 24]', is 'float32 [6, 24]'" in str(error.value)
    assert "parameters.fusion.blocks.0.attention_gate was 'absent', is 'float32 [1]'" in str(error.value)
    assert "parameters.fusion.blocks.3.attention_gate was 'float32 [1]', is 'absent'" in str(error.value)


def test_how_often_a_run_writes_may_change_when_it_is_resumed(backbones, finished):
    run(make_model(backbones), finished, log_every=3, save_every=1, sample_every=2)


def test_a_half_written_state_gives_way_to_the_one_before(backbones, finished, tmp_path):
    state = tmp_path / "state"
    with pytest.raises(RuntimeError, match="disk full"):
        stopping_at(3, backbones, tmp_path)
    assert [path.name for path in state.iterdir()] == ["step-00000002"]
    (state / "step-00000004").mkdir()
    (state / "step-00000004" / "run.json").write_bytes(b"half")
    model = make_model(backbones)
    run(model, tmp_path)
    assert [path.name for path in state.iterdir()] == ["step-00000004"]
    assert history(tmp_path) == history(finished)


def stopping_at(step, backbones, output):
    def stop(record):
        if record["step"] == step:
            raise RuntimeError("disk full")

    sets = [DataSet(name, Listed(batch([3]), batch([4]))) for name in ("a", "b")]
    train(make_model(backbones), sets, AdamWConfig(lr=1e-3), TrainingConfig(**CONFIG), output, Callbacks(on_log=stop))


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "run.json", "process-0.pt", "complete.json"])
def test_a_flipped_byte_in_a_state_is_named_with_what_to_do(backbones, finished, tmp_path, name):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "state" / "step-00000004"
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    model = make_model(backbones)
    before = trained(model)
    with pytest.raises(UserError, match=rf"{folder}.*{folder}"):
        run(model, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in trained(model).items())


def test_a_missing_file_of_a_state_is_named(backbones, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "state" / "step-00000004" / "process-0.pt").unlink()
    with pytest.raises(UserError, match=r"process-0\.pt"):
        run(make_model(backbones), tmp_path)


def rewritten(finished, output, change):
    """The state with other tensors and right checksums."""
    shutil.copytree(finished, output, dirs_exist_ok=True)
    folder = state_folder(output, 4)
    tensors = read_tensors(folder)
    change(tensors)
    (folder / ".metadata").unlink()
    write_tensors(folder, tensors, None)
    (folder / "complete.json").unlink()
    mark_complete(folder, checksums_of(folder, ("*",)))


def narrower(tensors, name):
    tensors[name] = tensors[name][:1]


def doubled(tensors, name):
    tensors[name] = tensors[name].double()


def moments_removed(tensors, name):
    for kind in ("exp_avg", "exp_avg_sq", "step"):
        tensors.pop(f"optimizer.{kind}.{name}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: narrower(tensors, "parameters.connector.latents"), r"latents.*float32.*\[1, 24\]"),
        (lambda tensors: doubled(tensors, "parameters.connector.latents"), "latents.*float64"),
        (lambda tensors: narrower(tensors, "optimizer.exp_avg.connector.latents"), r"exp_avg of connector\.latents"),
        (lambda tensors: tensors.pop("parameters.connector.latents"), "latents.*absent"),
        (lambda tensors: tensors.update({"buffers.scale": torch.ones(())}), "buffers.scale.*absent"),
        (lambda tensors: moments_removed(tensors, "connector.latents"), r"no optimizer state of connector\.latents"),
    ],
)
def test_tensors_of_another_shape_or_type_are_not_broadcast(backbones, finished, tmp_path, change, said):
    rewritten(finished, tmp_path, change)
    model = make_model(backbones)
    before = trained(model)
    with pytest.raises(UserError, match=said):
        run(model, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in trained(model).items())


def test_buffers_of_another_shape_are_refused(tmp_path):
    def normalised(features):
        model = nn.BatchNorm1d(features, affine=False)
        model.weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD(model.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return StateFolder(tmp_path, {}, model, optimizer, schedule, [])

    with normalised(1) as states:
        states.save(Progress(step=1))
    with pytest.raises(UserError, match=r"running_mean.*float32.*\[1\].*float32.*\[5\]"):
        normalised(5).restore()


def test_other_frozen_weights_are_refused(backbones, finished):
    model = make_model(backbones)
    next(p for p in model.parameters() if not p.requires_grad).data.add_(1.0)
    with pytest.raises(UserError, match="frozen parameters"):
        run(model, finished)


def test_a_full_disk_leaves_the_state_before_it(backbones, tmp_path, monkeypatch):
    run(make_model(backbones), tmp_path / "whole")
    with pytest.raises(RuntimeError):
        stopping_at(3, backbones, tmp_path / "full")
    state = tmp_path / "full" / "state"
    call = 0
    while True:
        call += 1
        monkeypatch.setattr("flamingo.utils.io.write", full_disk(call))
        try:
            run(make_model(backbones), tmp_path / "full", log_every=4)
            break
        except UserError as error:
            assert "No space left on device" in str(error) and str(tmp_path / "full") in str(error)
        monkeypatch.undo()
        assert [folder.name for folder in complete_states(state)] == ["step-00000002"]
    assert call > 5  # the history, five files of the state
    whole, full = (read_state(tmp_path / name, 4)["parameters"] for name in ("whole", "full"))
    assert all(torch.equal(whole[name], full[name]) for name in whole)


def test_a_state_is_on_disk_before_its_predecessor_is_removed(backbones, tmp_path, monkeypatch):
    synced, removed = [], []

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    def rmtree(path, **_):
        removed.append((path.name, {file.parent.name for file in synced}, {file.name for file in synced}))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("flamingo.training.state_files.shutil.rmtree", rmtree)
    run(make_model(backbones), tmp_path)
    [(name, folders, files)] = removed
    assert name == "step-00000002"
    assert "step-00000004" in folders
    assert {"state", "step-00000004", "history.jsonl"} <= files  # the folders, and what the state counts on
    assert {re.sub(r"\.[0-9a-f]{8}\.tmp", "", file) for file in files} >= {
        ".metadata.tmp",  # torch renames it
        "__0_0.distcp",
        "process-0.pt",
        "run.json",
        "complete.json",
    }


def draw():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()


def test_random_states_come_back_through_a_file(tmp_path):
    np.random.randn()  # keeps a second normal number for the next call
    torch.save(random_states(), tmp_path / "states.pt")
    expected = draw()
    assert draw() != expected
    set_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == expected


def test_what_is_drawn_aside_is_not_missed_even_after_an_error():
    state = random_states()
    expected = draw()
    set_random_states(state)
    with pytest.raises(RuntimeError), untouched_random_states():
        draw()
        raise RuntimeError
    assert draw() == expected
