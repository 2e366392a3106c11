"""Weight decay, learning rates of groups, and the schedule."""

import copy
import math

import pytest
import torch

from flamingo.training.optim import OPTIMIZERS, AdamWConfig, MuonConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import make_schedule
from flamingo.training.state_tensors import make_optimizer_tensors, optimizer_tensors
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import load_kind
from tests import tiny
from tests.helpers import devices

CONNECTOR_MATRICES = {
    f"connector.layers.{layer}.{part}.weight"
    for layer in (0, 1)
    for part in (
        *(f"attention.to_{which}" for which in ("q", "k", "v", "out")),
        "feedforward.up",
        "feedforward.down",
    )
}
GATED_MATRICES = {name.replace("connector.layers.0", f"fusion.blocks.{layer}") for layer in (1, 3) for name in
                  CONNECTOR_MATRICES if ".0." in name}  # fmt: skip
GATES = {f"fusion.blocks.{layer}.{part}_gate" for layer in (1, 3) for part in ("attention", "feedforward")}
NORMS = {
    f"{norm}.{kind}"
    for kind in ("weight", "bias")
    for norm in (
        "connector.norm",
        *(f"connector.layers.{i}.{n}" for i in (0, 1) for n in ("norm_features", "norm_latents", "feedforward.norm")),
        *(f"fusion.blocks.{i}.{n}" for i in (1, 3) for n in ("norm", "feedforward.norm")),
    )
}
ROWS = {"new_tokens.input_rows", "new_tokens.output_rows", "connector.latents", "connector.frame_embeddings"}


@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_matrices_decay_and_gates_have_their_own_rate(backbones, gate):
    model = tiny.flamingo(backbones, "llama", fusion={"gate": gate}, connector={"num_frames": 2})
    optimizer = make_optimizer(model, AdamWConfig(lr=0.5, gate_lr=2.0, weight_decay=0.3, betas=(0.8, 0.9)))
    groups = {(group["lr"], group["weight_decay"]): set(group["param_names"]) for group in optimizer.param_groups}
    assert groups == {
        (0.5, 0.3): CONNECTOR_MATRICES | GATED_MATRICES,
        (0.5, 0.0): NORMS | ROWS,
        (2.0, 0.0): GATES,
    }
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


def test_gates_without_a_rate_of_their_own_have_the_common_one(backbones):
    optimizer = make_optimizer(tiny.flamingo(backbones), AdamWConfig(lr=0.5))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5]
    assert len(make_optimizer(tiny.flamingo(backbones, fusion={"gate": "none"}), AdamWConfig()).param_groups) == 2


def test_embeddings_that_train_do_not_decay():
    model = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2))
    decay, rest = make_optimizer(model, AdamWConfig()).param_groups
    assert decay["param_names"] == ["1.weight"]
    assert rest["param_names"] == ["0.weight", "1.bias"]


def test_a_model_of_which_nothing_trains_is_refused():
    with pytest.raises(UserError, match="requires_grad"):
        make_optimizer(torch.nn.Linear(2, 2).requires_grad_(False), AdamWConfig())


def test_muon_orthogonalises_matrices_and_adamw_does_the_rest():
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 6).to(devices.DEVICE)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = MuonConfig(lr=0.01, weight_decay=0.5)
    optimizer = make_optimizer(model, config)
    # A gradient of hardly more than one direction, of which AdamW and plain momentum would see nothing else.
    outer = torch.outer(torch.randn(6), torch.randn(8))
    model.weight.grad, model.bias.grad = outer + 0.05 * torch.randn(6, 8), torch.tensor([3.0, -1, 2, -5, 1, 1])
    optimizer.step()
    moved = before["weight"] * (1 - 0.01 * 0.5) - model.weight.detach()
    singular = torch.linalg.svdvals(moved)
    assert singular.min() > 0.5 * singular.max()
    # The root mean square of AdamW's first steps, times 0.2 (Moonlight, equation 4), up to Muon's approximation.
    assert moved.square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.2)
    assert (moved * model.weight.grad).sum() > 0
    torch.testing.assert_close(model.bias.detach(), before["bias"] - 0.01 * model.bias.grad.sign())


def test_muon_is_that_of_torch_bit_for_bit():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(8, 6).to(devices.DEVICE), torch.nn.Linear(8, 6).to(devices.DEVICE)
    theirs.load_state_dict(ours.state_dict())
    optimizer = make_optimizer(ours, MuonConfig(lr=0.01, weight_decay=0.5))
    reference = torch.optim.Muon([theirs.weight], lr=0.01, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        gradient = torch.randn(6, 8)
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        ours.bias.grad = torch.zeros(6)
        optimizer.found_inf = None if step < 2 else torch.zeros(())
        optimizer.step()
        reference.step()
        assert torch.equal(ours.weight, theirs.weight)
    momentum = optimizer.parts["muon"].state[ours.weight]["momentum_buffer"]
    assert torch.equal(momentum, reference.state[theirs.weight]["momentum_buffer"])


@pytest.mark.parametrize("config", [AdamWConfig(lr=0.1), MuonConfig(lr=0.1)], ids=lambda config: config.kind)
@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("gradient", [1.0, float("nan"), float("inf")])
def test_a_step_with_found_inf_keeps_parameters_and_state(config, steps_before, gradient):
    """Also the first one, which makes the state."""

    def after(found):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 6).to(devices.DEVICE)
        optimizer = make_optimizer(model, config)
        for step_found in found:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient if step_found else 0.5)
            optimizer.found_inf = torch.tensor(float(step_found))
            optimizer.step()
        return copy.deepcopy((model.state_dict(), optimizer_tensors(model, optimizer)))

    weights, moments = after([0] * steps_before + [1, 1])
    expected_weights, expected_moments = after([0] * steps_before)
    for name, weight in expected_weights.items():
        assert torch.equal(weights[name], weight)
    assert len(moments) >= 4
    if steps_before == 0:
        assert not any(moment.any() for moment in moments.values())
    else:
        assert moments.keys() == expected_moments.keys()
        assert all(torch.equal(moments[name], moment) for name, moment in expected_moments.items())


def test_muon_goes_on_from_its_state_with_its_schedule():
    def trained(steps, state=None):
        torch.manual_seed(1)
        model = tiny_regression()
        optimizer = make_optimizer(model, config)
        schedule = make_schedule(optimizer, config, 6)
        if state:
            model.load_state_dict(state[0])
            for name, tensor in make_optimizer_tensors(model, optimizer, state[1]).items():
                tensor.copy_(state[1][name])
            schedule.load_state_dict(state[2])
        for step in steps:
            optimizer.zero_grad()
            model(torch.ones(1, 8) * (step + 1)).square().sum().backward()
            optimizer.step()
            schedule.step()
        return copy.deepcopy((model.state_dict(), optimizer_tensors(model, optimizer), schedule.state_dict()))

    def tiny_regression():
        return torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 3)).to(devices.DEVICE)

    config = MuonConfig(lr=0.01, warmup_steps=2, schedule="cosine")
    half = trained(range(3))
    through = trained(range(6))
    resumed = trained(range(3, 6), half)
    for name, value in through[0].items():
        torch.testing.assert_close(resumed[0][name], value, rtol=0, atol=0)
        assert not torch.equal(half[0][name], value)


def test_muon_needs_matrices_and_something_else():
    with pytest.raises(UserError, match=r"optimizer\.kind=muon"):
        make_optimizer(torch.nn.Linear(2, 2, bias=False), MuonConfig())


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
    weights, gates = rates(AdamWConfig(lr=4.0, gate_lr=8.0, warmup_steps=4), 6)
    assert weights == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    assert gates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_a_cosine_falls_from_warm_up_to_zero_at_the_last_step():
    weights, _ = rates(AdamWConfig(lr=4.0, warmup_steps=2, schedule="cosine"), 6)
    half = math.sqrt(0.5)
    assert weights == pytest.approx([2.0, 4.0, 2 + 2 * half, 2.0, 2 - 2 * half, 0.0], abs=1e-12)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.warmup_steps .*6"):
        rates(AdamWConfig(warmup_steps=6), 6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("gate_lr", -1.0),
        ("max_grad_norm", 0.0),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("schedule", "linear"),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(key, value):
    with pytest.raises(UserError, match=f"^optimizer.{key} "):
        load_kind(OPTIMIZERS, {"kind": "adamw", key: value}, "optimizer")


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"optimizer\.kind.*adamw, muon.*sgd"):
        load_kind(OPTIMIZERS, {"kind": "sgd"}, "optimizer")
