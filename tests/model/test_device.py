"""Logits and gradients on the tested device against those on the CPU, in float32 and bfloat16."""

import pytest
import torch

from tests import tiny

ARCHITECTURES = {
    "last": {},
    "previous": {"fusion": {"attend": "previous"}},
    "qformer": {"connector": tiny.POOLING_CONNECTORS["qformer"]},
    "prefix": {"fusion": {"kind": "prefix"}, "connector": tiny.POOLING_CONNECTORS["mlp_projector"]},
}


def inputs(name):
    return tiny.prefix_inputs(tokens_per_image=4) if name == "prefix" else tiny.inputs()


def cpu_twin(backbones, model, **config):
    """A model on the CPU in float32 with the same weights."""
    twin = tiny.flamingo(backbones, **config)
    twin.load_state_dict(model.state_dict())
    twin.place(torch.device("cpu"))
    return twin.float()


def on_cpu(batch):
    return {name: value.cpu() for name, value in batch.items()}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


def test_float32_logits_and_gradients_are_those_of_the_cpu(backbones, architecture):
    model = tiny.flamingo(backbones, image_token_id=tiny.NEW_TOKEN_IDS[1], **ARCHITECTURES[architecture])
    twin = cpu_twin(backbones, model, image_token_id=tiny.NEW_TOKEN_IDS[1], **ARCHITECTURES[architecture])
    batch = inputs(architecture)
    outputs = model(**batch, labels=batch["input_ids"])
    expected = twin(**on_cpu(batch), labels=batch["input_ids"].cpu())
    torch.testing.assert_close(outputs.logits.cpu(), expected.logits, atol=1e-4, rtol=1e-4)
    outputs.loss.backward()
    expected.loss.backward()
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert any(name.startswith("connector") for name in gradients)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad.cpu(), gradients[name], atol=1e-4, rtol=1e-3)


def test_bfloat16_logits_are_near_those_of_float32_on_the_cpu(backbones, architecture, device):
    config = {"image_token_id": tiny.NEW_TOKEN_IDS[1]} | ARCHITECTURES[architecture]
    model = tiny.flamingo(backbones, dtype=torch.bfloat16, **config)
    twin = cpu_twin(backbones, model, **config)
    batch = inputs(architecture)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        logits = model(**batch).logits.float().cpu()
    expected = twin(**on_cpu(batch)).logits
    difference = (logits - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 2e-2


def test_greedy_tokens_are_those_of_the_cpu(backbones, architecture):
    config = {"image_token_id": tiny.NEW_TOKEN_IDS[1]} | ARCHITECTURES[architecture]
    model = tiny.flamingo(backbones, **config)
    twin = cpu_twin(backbones, model, **config)
    batch = inputs(architecture)
    settings = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    tokens = model.generate(**batch, **settings)
    assert torch.equal(tokens.cpu(), twin.generate(**on_cpu(batch), **settings))
