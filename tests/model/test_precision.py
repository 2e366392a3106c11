"""Under autocast frozen backbones of 16 bits compute in their own dtype, and trained parts as autocast does."""

from collections import defaultdict
from functools import partial

import pytest
import torch
from torch import nn

from flamingo.model import precision
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import add_adapter
from tests import tiny
from tests.helpers.model_calls import loss_and_gradients


@pytest.fixture
def acting(monkeypatch):
    """Lets the contexts act on a CPU, too."""
    monkeypatch.setattr(precision, "_KEEPING", ())


def under_autocast(model, batch):
    """Runs the model under autocast. Returns whether norms of each part ran under it, the loss and the gradients."""
    found = defaultdict(set)

    def note(part, *_):
        found[part].add(torch.is_autocast_enabled("cpu"))

    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(partial(note, name.partition(".")[0]))
    with torch.autocast("cpu", torch.bfloat16):
        return found, *loss_and_gradients(model, batch)


def made(backbones, dtype):
    model = tiny.flamingo(backbones, "opt", dtype=dtype)
    batch = tiny.inputs()
    return model, batch | {"labels": batch["input_ids"]}


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.full)])
def test_frozen_backbones_of_16_bits_leave_autocast(backbones, acting, monkeypatch, checkpointing):
    model, batch = made(backbones, torch.bfloat16)
    if checkpointing:
        model.activation_checkpointing_enable()
        model.train()
    found, loss, gradients = under_autocast(model, batch)
    assert found["language_model"] == found["vision_model"] == {False}
    assert found["fusion"] == found["connector"] == {True}
    monkeypatch.undo()
    found, expected_loss, expected = under_autocast(model, batch)
    assert True in found["language_model"] and True in found["vision_model"]
    torch.testing.assert_close(loss, expected_loss, rtol=1e-3, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradients[name].dtype == torch.float32
        assert (gradients[name] - gradient).norm() <= 0.02 * gradient.norm(), name


@pytest.mark.parametrize("change", ["float32", "trained", pytest.param("adapter", marks=pytest.mark.full)])
def test_other_language_models_stay_under_autocast(backbones, acting, change):
    dtype = getattr(torch, change, torch.bfloat16)
    model, batch = made(backbones, dtype)
    if change == "trained":
        model.language_model.requires_grad_(True)
    if change == "adapter":
        add_adapter(model, AdapterConfig("lora"))
    found, loss, _ = under_autocast(model, batch)
    assert found["language_model"] == {True}
    assert loss.isfinite()


def test_on_a_cpu_backbones_keep_autocast(backbones):
    model, batch = made(backbones, torch.bfloat16)
    found, _, _ = under_autocast(model, batch)
    assert found["language_model"] == {True}
