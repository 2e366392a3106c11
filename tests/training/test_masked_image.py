"""A batch without images gets one that no token sees: all trained parts compute, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

from flamingo.training.losses.next_token import next_token
from flamingo.training.masked_image import with_masked_image
from tests.helpers.devices import DEVICE
from tests.training.runs import batch, make_model


def gradients(model, made):
    model.zero_grad()
    loss = next_token(model, made, 1)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("fusion", ["cross_attention", "prefix"])
def test_the_masked_image_has_gradients_of_zero(backbones, fusion):
    model = make_model(backbones, fusion).train()
    made = batch([1, 2], images=0).to(DEVICE)
    loss, plain = gradients(model, made)
    encoded = []
    model.vision_model.register_forward_hook(lambda module, args, outputs: encoded.append(len(args[0])))
    same_loss, masked = gradients(model, with_masked_image(made, model))
    assert torch.equal(same_loss, loss)
    assert encoded == [1]
    assert any(gradient is None for gradient in plain.values())
    for name, gradient in masked.items():
        expected = torch.zeros_like(gradient) if plain[name] is None else plain[name]
        assert gradient is not None and torch.equal(gradient, expected), name


def test_a_batch_whose_images_nobody_sees_encodes_one(backbones):
    model = make_model(backbones)
    made = batch([1, 2], images=1).to(DEVICE)
    assert with_masked_image(made, model) is made
    unseen = {
        "image_index": torch.full_like(made.tensors["image_index"], -1),
        "image_places": torch.zeros(0, dtype=torch.long),
    }
    completed = with_masked_image(replace(made, tensors=made.tensors | unseen), model)
    assert completed.tensors["image_places"].tolist() == [0]
    assert completed.tensors["pixel_values"] is made.tensors["pixel_values"]
