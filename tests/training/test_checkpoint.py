"""States: written whole or not at all, small, and refused by another run."""

import random

import numpy as np
import pytest
import torch

from flamingo.training.checkpoint import random_states, set_random_states, untouched_random_states
from flamingo.training.loop import TrainingConfig, train
from flamingo.training.objective import DataSet
from flamingo.training.optimizer import OptimizerConfig
from tests import tiny
from tests.training.runs import Listed, batch, history, make_model, trained

CONFIG = {"steps": 4, "log_every": 1, "save_every": 2}


def run(model, output, names=("a", "b"), rate=1e-3, weight=1.0, **config):
    sets = [DataSet(name, Listed(batch([3]), batch([4])), weight) for name in names]
    train(model, sets, OptimizerConfig(rate=rate), TrainingConfig(**{**CONFIG, **config}), output)


@pytest.fixture(scope="module")
def finished(backbones, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    run(make_model(backbones), output)
    return output


def test_only_the_newest_state_is_kept_and_only_what_trains_is_in_it(backbones, finished):
    assert [path.name for path in (finished / "state").iterdir()] == ["step-00000004"]
    state = torch.load(finished / "state" / "step-00000004" / "common.pt", weights_only=True)
    names = make_model(backbones).trainable_parameter_names()
    assert list(state["parameters"]) == names
    assert len(state["optimizer"]["state"]) == len(names)
    assert state["positions"] == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "c")}, r"data sets is \['a .*', 'b .*'\] there and \['a .*', 'c .*'\] here"),
        ({"names": ("b", "a")}, "data sets is"),
        ({"weight": 2.0}, r"a with weight 1\.0.* there and .*a with weight 2\.0"),
        ({"rate": 0.1}, r"optimizer\.rate is 0\.001 there and 0\.1 here"),
        ({"seed": 5}, r"training\.seed is 0 there and 5 here"),
        ({"steps": 9}, r"training\.steps is 4 there and 9 here"),
        ({"accumulate": 2, "combine": "in_turn"}, r"accumulate is 1 there and 2 here; .*combine is accumulated there"),
        ({"precision": "bf16"}, r"training\.precision is fp32 there and bf16 here"),
    ],
)
def test_the_state_of_another_run_is_refused_with_what_differs(backbones, finished, change, message):
    model = make_model(backbones)
    before = trained(model)
    with pytest.raises(ValueError, match=f"step-00000004 is the state of another run: .*{message}"):
        run(model, finished, **change)
    assert all(torch.equal(weight, before[name]) for name, weight in trained(model).items())
    assert len(history(finished)) == 4


def test_the_state_of_another_model_is_refused_with_the_parameters_that_differ(backbones, finished):
    other = tiny.flamingo(backbones, resampler={"latents": 6}, gated={"offset": 0})
    with pytest.raises(ValueError) as error:
        run(other, finished)
    assert "parameters.resampler.latents is float32 [5, 24] there and float32 [6, 24] here" in str(error.value)
    assert "parameters.gated_layers.0.attention_gate is absent there and float32 [1] here" in str(error.value)
    assert "parameters.gated_layers.3.attention_gate is float32 [1] there and absent here" in str(error.value)


def test_how_often_a_run_writes_may_change_when_it_is_resumed(backbones, finished):
    run(make_model(backbones), finished, log_every=3, save_every=1, sample_every=2)


def test_a_half_written_state_is_removed_and_the_one_before_it_taken(backbones, finished, tmp_path):
    state = tmp_path / "state"
    with pytest.raises(RuntimeError, match="disk full"):
        stopping_at(3, backbones, tmp_path)
    assert [path.name for path in state.iterdir()] == ["step-00000002"]
    (state / "step-00000004.tmp").mkdir()
    (state / "step-00000004.tmp" / "common.pt").write_bytes(b"half")
    model = make_model(backbones)
    run(model, tmp_path)
    assert [path.name for path in state.iterdir()] == ["step-00000004"]
    assert history(tmp_path) == history(finished)


def stopping_at(step, backbones, output):
    def stop(record):
        if record["step"] == step:
            raise RuntimeError("disk full")

    sets = [DataSet(name, Listed(batch([3]), batch([4]))) for name in ("a", "b")]
    train(make_model(backbones), sets, OptimizerConfig(rate=1e-3), TrainingConfig(**CONFIG), output, on_log=stop)


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
