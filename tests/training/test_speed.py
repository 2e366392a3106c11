import time
from types import SimpleNamespace

import pytest
import torch

from flamingo.data.batch_sizes import BatchSizes
from flamingo.training import speed as speed_module
from flamingo.training.flops import TrainingFlops
from flamingo.training.speed import PARTS, Speed

CPU = torch.device("cpu")
FLOPS = TrainingFlops(per_encoded_image=0.0, per_image=1e12, per_token=1e9, per_token_pair=0.0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved on."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_speeds_are_those_of_the_steps_since_the_last_record(clock):
    speed = Speed(CPU)
    for _ in range(2):
        clock.now += 2.0
        speed.step(BatchSizes(tokens=30, images=4))
    values = speed.values()
    assert values["tokens_per_second"] == 60 / 4
    assert values["images_per_second"] == 8 / 4
    clock.now += 1.0
    speed.step(BatchSizes(tokens=5))
    assert speed.values()["tokens_per_second"] == 5
    assert "flops_per_second" not in values


def test_time_outside_of_steps_is_left_out(clock):
    speed = Speed(CPU)
    with speed.paused():
        clock.now += 50.0
    clock.now += 2.0
    speed.step(BatchSizes(tokens=30))
    assert speed.values()["tokens_per_second"] == 15


def test_the_log_has_a_time_of_its_own_and_restarts_the_clock(clock):
    speed = Speed(CPU)
    clock.now += 4.0
    speed.step(BatchSizes(tokens=20))
    speed.step(BatchSizes(tokens=20))
    with speed.logging():
        clock.now += 1.0
        first = speed.values()
        clock.now += 5.0
    clock.now += 2.0
    speed.step(BatchSizes(tokens=6))
    second = speed.values()
    assert first["time/logging"] == 0
    assert second["time/logging"] == 6
    assert second["tokens_per_second"] == 3


def test_parts_are_means_over_the_steps(clock):
    speed = Speed(CPU)
    for seconds in (1.0, 3.0):
        for number, name in enumerate(PARTS):
            with speed.part(name):
                clock.now += seconds + number
        speed.step(BatchSizes())
    values = speed.values()
    assert [values[f"time/{name}"] for name in PARTS] == [2, 3, 4, 5]


def test_a_part_that_runs_several_times_in_a_step_is_summed(clock):
    speed = Speed(CPU)
    for _ in range(3):
        with speed.part("forward"):
            clock.now += 1.0
    speed.step(BatchSizes())
    assert speed.values()["time/forward"] == 3


def test_mfu_is_the_share_of_the_peak_of_all_devices(clock, monkeypatch):
    monkeypatch.setattr(speed_module, "peak_tflops", lambda name: 10.0)
    speed = Speed(CPU, "bf16", num_processes=2, flops=FLOPS)
    clock.now += 4.0
    speed.step(BatchSizes(tokens=1000, images=15))
    values = speed.values()
    assert values["flops_per_second"] == 16e12 / 4
    assert values["mfu"] == pytest.approx(4e12 / (2 * 10e12))


@pytest.mark.parametrize("precision, peak", [("fp32", 10.0), ("bf16", None)])
def test_mfu_is_null_where_no_peak_is_known(clock, monkeypatch, precision, peak):
    monkeypatch.setattr(speed_module, "peak_tflops", lambda name: peak)
    speed = Speed(CPU, precision, flops=FLOPS)
    clock.now += 4.0
    speed.step(BatchSizes(tokens=1000))
    assert speed.values()["mfu"] is None
