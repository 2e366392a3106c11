"""A training continues from the state of a shorter one, also of a finished one."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import lengthen, make_schedule
from flamingo.utils.errors import UserError
from tests.training.runs import data_sets, history, make_model, trained

CONSTANT = {"lr": 1e-3, "gate_lr": 1e-2, "warmup_steps": 2}
COSINE = {**CONSTANT, "schedule": "cosine"}


class _StopError(Exception):
    pass


def with_noise(tensors):
    """Adds noise from two global generators. Python's own is also drawn from by the type checks of the tests."""
    if "pixel_values" in tensors:
        tensors["pixel_values"] = tensors["pixel_values"] + torch.randn(()) + np.random.rand()
    return tensors


def run(backbones, output, steps, optimizer, stop_at=None):
    """The trained weights after ``steps`` steps, of which the folder may have some."""

    def stop(record):
        if record["step"] == stop_at:
            raise _StopError

    model = make_model(backbones)
    config = TrainingConfig(steps=steps, log_every=1, save_every=2)
    sets = [replace(data_set, prepare=with_noise) for data_set in data_sets()]
    train(model, sets, optimizer, config, output, Callbacks(on_log=stop))
    return trained(model)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("optimizer", [AdamWConfig(**CONSTANT), MuonConfig(**CONSTANT)], ids=["adamw", "muon"])
def test_a_constant_rate_ends_as_one_training_of_all_steps(backbones, tmp_path, optimizer):
    expected = run(backbones, tmp_path / "long", 6, optimizer)
    shorter = run(backbones, tmp_path / "short", 3, optimizer)
    assert not torch.equal(shorter["connector.latents"], expected["connector.latents"])
    assert_equal(run(backbones, tmp_path / "short", 6, optimizer), expected)
    assert history(tmp_path / "short") == history(tmp_path / "long")


def test_after_a_finished_cosine_a_new_one_begins_and_is_logged(backbones, tmp_path):
    optimizer = AdamWConfig(**COSINE)
    run(backbones, tmp_path, 4, optimizer)
    run(backbones, tmp_path, 8, optimizer)
    records = history(tmp_path)
    # Two steps up, down to 0 in step 4; then the cosine of four steps: its half is in step 6.
    rates = [record["lr"] for record in records]
    assert rates == pytest.approx(
        [0.5e-3, 1e-3, 0.5e-3, 0, 1e-3 * 0.8535533905932737, 0.5e-3, 1e-3 * 0.14644660940672624, 0], abs=1e-12
    )
    said = [(record.get("decay_start"), record.get("decay_from_lr")) for record in records]
    assert said == [(None, None)] * 4 + [(4, 1e-3)] * 4
    assert all(record["lr"] >= 0 for record in records)


def test_a_cosine_lengthened_midway_falls_from_its_present_rate(backbones, tmp_path):
    optimizer = AdamWConfig(**COSINE)
    with pytest.raises(_StopError):
        run(backbones, tmp_path, 6, optimizer, stop_at=5)
    run(backbones, tmp_path, 8, optimizer)  # from the state after step 4, whose factor was a half
    record = history(tmp_path)[4]
    assert (record["step"], record["decay_start"], record["decay_from_lr"]) == (5, 4, pytest.approx(0.5e-3))
    assert record["lr"] == pytest.approx(0.5e-3 * 0.8535533905932737)


def test_a_longer_training_that_is_stopped_continues_bit_for_bit(backbones, tmp_path):
    optimizer = AdamWConfig(**COSINE)
    for name in ("through", "stopped"):
        run(backbones, tmp_path / name, 4, optimizer)
    expected = run(backbones, tmp_path / "through", 8, optimizer)
    with pytest.raises(_StopError):
        run(backbones, tmp_path / "stopped", 8, optimizer, stop_at=7)
    assert_equal(run(backbones, tmp_path / "stopped", 8, optimizer), expected)
    assert history(tmp_path / "stopped") == history(tmp_path / "through")


def test_every_group_has_the_next_steps_rate_at_once():
    def prepared(steps):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3)
        model.some_gate = torch.nn.Parameter(torch.zeros(1))
        optimizer = make_optimizer(model, config)
        return optimizer, make_schedule(optimizer, config, steps)

    config = AdamWConfig(lr=4.0, gate_lr=8.0, warmup_steps=1, schedule="cosine")
    optimizer, schedule = prepared(3)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    optimizer, schedule = prepared(5)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    lengthen(schedule, 3, 5)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([2.0, 2.0, 4.0])  # half of a cosine of two steps


def test_fewer_steps_are_refused(backbones, tmp_path):
    run(backbones, tmp_path, 4, AdamWConfig(**CONSTANT))
    with pytest.raises(UserError, match=r"training\.steps was 4, is 3"):
        run(backbones, tmp_path, 3, AdamWConfig(**CONSTANT))
