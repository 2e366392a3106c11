"""Packed documents give the model the same results as separate ones."""

import pytest
import torch

from flamingo.data.collate import EncodedExample, collate
from flamingo.data.packing import pack
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.devices import moved
from tests.helpers.model_calls import loss_and_gradients

#: Attention over a sliding window or by distance: these take neither a custom mask nor positions.
NOT = {"mpt", "mistral", "gemma2", "gemma3_text"}


def examples():
    """Documents on the CPU, where batches are made."""
    torch.manual_seed(0)
    made = []
    for length, images in ((7, 2), (4, 1), (9, 3), (5, 0)):
        ids = torch.randint(3, 290, (length,), device="cpu")
        index = (torch.arange(length, device="cpu") * (images + 1) // length) - 1
        pixels = None
        if images:
            pixels = torch.randn(images, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, device="cpu")
        made.append(EncodedExample(ids, index, ids, pixels))
    return made


@pytest.mark.parametrize("family", sorted(set(tiny.LANGUAGE_MODELS) - NOT))
def test_loss_and_gradients_are_those_of_separate_rows(backbones, family):
    model = tiny.flamingo(backbones, family)
    apart, expected = loss_and_gradients(model, moved(collate(examples(), 0, "right")))
    packed = moved(pack([[example] for example in examples()], 16, 0))
    assert len(packed["input_ids"]) == 2
    together, gradients = loss_and_gradients(model, packed)
    torch.testing.assert_close(together, apart)
    assert gradients.keys() == expected.keys() and any(grad.abs().max() > 1e-3 for grad in gradients.values())
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", sorted(NOT))
def test_a_model_that_attends_across_documents_is_refused(backbones, family):
    model = tiny.flamingo(backbones, family)
    with pytest.raises(UserError, match="pack_to=0"):
        model(**moved(pack([[example] for example in examples()], 16, 0)))


def test_seeing_all_previous_images_is_refused(backbones):
    model = tiny.flamingo(backbones, fusion={"attend": "previous"})
    with pytest.raises(UserError, match=r"fusion\.attend"):
        model(**moved(pack([[example] for example in examples()], 16, 0)))
