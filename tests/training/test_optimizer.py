"""What decays, what has a rate of its own, and how the rate goes."""

import math

import pytest
import torch

from flamingo.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from tests import tiny

RESAMPLER_MATRICES = {
    f"resampler.layers.{layer}.{part}.weight"
    for layer in (0, 1)
    for part in (
        *(f"attention.to_{which}" for which in ("q", "k", "v", "out")),
        "feedforward.up",
        "feedforward.down",
    )
}
GATED_MATRICES = {name.replace("resampler.layers.0", f"gated_layers.{layer}") for layer in (1, 3) for name in
                  RESAMPLER_MATRICES if ".0." in name}  # fmt: skip
GATES = {f"gated_layers.{layer}.{part}_gate" for layer in (1, 3) for part in ("attention", "feedforward")}
NORMS = {
    f"{norm}.{kind}"
    for kind in ("weight", "bias")
    for norm in (
        "resampler.norm",
        *(f"resampler.layers.{i}.{n}" for i in (0, 1) for n in ("norm_features", "norm_latents", "feedforward.norm")),
        *(f"gated_layers.{i}.{n}" for i in (1, 3) for n in ("norm", "feedforward.norm")),
    )
}
ROWS = {"new_tokens.input_rows", "new_tokens.output_rows", "resampler.latents", "resampler.frame_embeddings"}


@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_matrices_decay_and_gates_have_their_own_rate(backbones, gate):
    model = tiny.flamingo(backbones, "llama", gated={"gate": gate}, resampler={"frames": 2})
    optimizer = make_optimizer(model, OptimizerConfig(rate=0.5, gate_rate=2.0, weight_decay=0.3, betas=(0.8, 0.9)))
    groups = {(group["lr"], group["weight_decay"]): set(group["param_names"]) for group in optimizer.param_groups}
    assert groups == {
        (0.5, 0.3): RESAMPLER_MATRICES | GATED_MATRICES,
        (0.5, 0.0): NORMS | ROWS,
        (2.0, 0.0): GATES,
    }
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


def test_gates_without_a_rate_of_their_own_have_that_of_all_and_models_without_gates_train(backbones):
    optimizer = make_optimizer(tiny.flamingo(backbones), OptimizerConfig(rate=0.5))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5]
    assert len(make_optimizer(tiny.flamingo(backbones, gated={"gate": "none"}), OptimizerConfig()).param_groups) == 2


def test_embeddings_that_train_do_not_decay():
    model = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2))
    decay, rest = make_optimizer(model, OptimizerConfig()).param_groups
    assert decay["param_names"] == ["1.weight"]
    assert rest["param_names"] == ["0.weight", "1.bias"]


def test_a_model_of_which_nothing_trains_is_refused():
    with pytest.raises(ValueError, match="no parameter of the model trains"):
        make_optimizer(torch.nn.Linear(2, 2).requires_grad_(False), OptimizerConfig())


def rates(config, steps):
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    gate = torch.nn.Parameter(torch.zeros(1))
    model = torch.nn.Module()
    model.weight, model.attention_gate = weight, gate
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, steps)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return [list(rate) for rate in zip(*seen)]


def test_the_rate_warms_up_from_the_first_step_and_stays():
    weights, gates = rates(OptimizerConfig(rate=4.0, gate_rate=8.0, warmup=4), 6)
    assert weights == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    assert gates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_a_cosine_falls_from_the_end_of_the_warm_up_to_zero_in_the_last_step():
    weights, _ = rates(OptimizerConfig(rate=4.0, warmup=2, schedule="cosine"), 6)
    half = math.sqrt(0.5)
    assert weights == pytest.approx([2.0, 4.0, 2 + 2 * half, 2.0, 2 - 2 * half, 0.0], abs=1e-12)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(ValueError, match="optimizer warmup 6 must be less than the number of steps, 6"):
        rates(OptimizerConfig(warmup=6), 6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", 0.0),
        ("rate", float("nan")),
        ("gate_rate", -1.0),
        ("clip", 0.0),
        ("weight_decay", -0.1),
        ("warmup", -1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("schedule", "linear"),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(key, value):
    config = OptimizerConfig()
    setattr(config, key, value)  # past the type checks of these tests, which nobody else has
    with pytest.raises(ValueError, match=f"optimizer {key} must"):
        config.__post_init__()
