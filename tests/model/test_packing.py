"""Packed documents give the model the same results as separate ones."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import flex_attention, varlen

from flamingo.data.collate import EncodedExample, collate
from flamingo.data.encode import EncodedGroup, make_batch
from flamingo.data.packing import pack
from flamingo.model.layers import repeated_layers
from flamingo.model.packed_attention import IMPLEMENTATION, check_kernel, prepared_masks
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.devices import moved
from tests.helpers.model_calls import BEAMS, loss_and_gradients

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


def checked(model, documents, **settings):
    groups = [EncodedGroup([document], str(number)) for number, document in enumerate(documents)]
    return moved(make_batch(groups, 0, known_ids=model.new_tokens.known_ids, **settings).tensors)


def assert_equal(actual, expected):
    """Compares losses and gradients."""
    torch.testing.assert_close(actual[0], expected[0])
    assert actual[1].keys() == expected[1].keys() and any(grad.abs().max() > 1e-3 for grad in actual[1].values())
    for name, gradient in expected[1].items():
        torch.testing.assert_close(actual[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def varlen_by_documents(queries, keys, values, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """The definition of varlen attention, which has no CPU kernel."""
    assert window_size == (-1, 0) and cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k)
    assert cu_q[0] == 0 and cu_q[-1] == len(queries) and max_q == max_k >= cu_q.diff().max()
    outputs = []
    for start, end in pairwise(cu_q):
        of_document = [states[start:end].transpose(0, 1) for states in (queries, keys, values)]
        attended = F.scaled_dot_product_attention(*of_document, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        outputs.append(attended.transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def kernels(monkeypatch):
    """Lets a CPU compute gradients of flex attention, and varlen attention."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_documents)


@pytest.mark.parametrize("family", sorted(set(tiny.LANGUAGE_MODELS) - NOT))
def test_loss_and_gradients_are_those_of_separate_rows(backbones, family):
    model = tiny.flamingo(backbones, family)
    apart = loss_and_gradients(model, moved(collate(examples(), 0, "right")))
    packed = moved(pack([[example] for example in examples()], 16, 0))
    assert len(packed["input_ids"]) == 2
    assert_equal(loss_and_gradients(model, packed), apart)


def test_rows_of_padding_change_no_gradient(gpt2):
    apart = loss_and_gradients(gpt2, moved(collate(examples(), 0, "right")))
    packed = moved(pack([[example] for example in examples()], 16, 0, num_rows=4))
    assert packed["input_ids"].shape == (4, 16)
    assert_equal(loss_and_gradients(gpt2, packed), apart)


# OPT has learnt positions and a width of its own, Llama shares keys between heads and rotates them.
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("varlen", "llama"),
        pytest.param("varlen", "opt", marks=pytest.mark.full),
        pytest.param("flex", "llama", marks=pytest.mark.full),
        pytest.param("flex", "opt", marks=pytest.mark.full),
    ],
)
def test_flex_and_varlen_attention_are_that_of_the_mask(backbones, kernels, kind, family):
    model = tiny.flamingo(backbones, family)
    batch = checked(model, examples(), pack_to=16)
    dense = loss_and_gradients(model, batch)
    masks = []
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with prepared_masks(model, kind):
        found = loss_and_gradients(model, batch)
        model.gradient_checkpointing_enable()
        model.train()
        assert_equal(loss_and_gradients(model, batch), dense)
    assert_equal(found, dense)
    assert not any(isinstance(mask, torch.Tensor) and mask.dtype == torch.bool for mask in masks)
    assert model.language_model.config._attn_implementation == "sdpa" and model.packed_attention == "dense"


def check_whole_graphs(backbones, kind):
    """Compiles each layer as one graph, and compares its outputs for batches of several shapes."""
    model = tiny.flamingo(Path(backbones), "llama")
    batches = [checked(model, examples(), pack_to=16), checked(model, examples()[:3], pack_to=24)]
    batches.append(checked(model, examples()))
    with torch.no_grad(), prepared_masks(model, kind):
        expected = [model(**batch).logits for batch in batches]
        for layer in repeated_layers(model.language_model):
            layer.forward = torch.compile(layer.forward, backend="eager", fullgraph=True)
        for batch, logits in zip(batches, expected, strict=True):
            torch.testing.assert_close(model(**batch).logits, logits)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["dense", "flex"])
def test_layers_compile_as_whole_graphs(backbones, kind):
    """In a process without the checks of shapes, whose wrappers the compiler cannot read."""
    script = f"from tests.model.test_packing import *; check_whole_graphs({str(backbones)!r}, {kind!r})"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_captions_within_a_training_are_those_outside(backbones):
    model = tiny.flamingo(backbones, "llama")
    inputs = tiny.inputs()
    inputs["attention_mask"][1, :3] = 0
    expected = model.generate(**inputs, **BEAMS)
    with prepared_masks(model, "dense"):
        assert torch.equal(model.generate(**inputs, **BEAMS), expected)


@pytest.mark.parametrize("length", [None, 12], ids=["padded", "of one length"])
def test_a_prepared_mask_changes_nothing(backbones, length):
    model = tiny.flamingo(backbones, "llama")
    documents = examples()
    if length is not None:
        ids = torch.arange(length, device="cpu")
        documents = [EncodedExample(ids, torch.full_like(ids, -1), ids, None)] * 2
    batch = checked(model, documents)
    assert ("attention_mask" in batch) == (length is None)
    expected = loss_and_gradients(model, batch)
    with prepared_masks(model, "dense"):
        assert model.language_model.config._attn_implementation == IMPLEMENTATION
        actual = loss_and_gradients(model, batch)
    assert torch.equal(actual[0], expected[0])
    assert all(torch.equal(actual[1][name], expected[1][name]) for name in expected[1])


@pytest.mark.parametrize("kind", ["dense", pytest.param("flex", marks=pytest.mark.full)])
def test_positions_of_unseen_images_stay_hidden(backbones, kernels, kind):
    """A document whose images are not seen is that document with other images."""
    model = tiny.flamingo(backbones, "llama", **tiny.PREFIX)
    marker = tiny.NEW_TOKEN_IDS[1]
    ids = torch.tensor([5] + [marker] * tiny.TOKENS_PER_IMAGE + [6, 7, 8], device="cpu")
    unseen, seen = torch.full_like(ids, -1), torch.where(torch.arange(len(ids), device="cpu") > 0, 0, -1)
    pixels = torch.randn(1, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, device="cpu")
    documents = [EncodedExample(ids, seen, ids, pixels), EncodedExample(ids, unseen, ids, pixels)]
    apart = model(**checked(model, documents)).logits
    with prepared_masks(model, kind):
        packed = model(**checked(model, documents, pack_to=2 * len(ids))).logits
    texts = ids != marker
    torch.testing.assert_close(packed[0, : len(ids)][texts], apart[0][texts])
    torch.testing.assert_close(packed[0, len(ids) :][texts], apart[1][texts])
    with pytest.raises(UserError, match="varlen"), prepared_masks(model, "varlen"):
        pass


def test_flex_and_varlen_attention_need_cuda():
    check_kernel("dense", torch.device("cpu"))
    check_kernel("varlen", torch.device("cuda"))
    for kind in ("flex", "varlen"):
        with pytest.raises(UserError, match=rf"packed_attention={kind}"):
            check_kernel(kind, torch.device("cpu"))


@pytest.mark.parametrize("family", sorted(NOT))
def test_a_model_that_attends_across_documents_is_refused(backbones, family):
    model = tiny.flamingo(backbones, family)
    with pytest.raises(UserError, match="pack_to=0"):
        model(**moved(pack([[example] for example in examples()], 16, 0)))
    with pytest.raises(UserError, match="packed_attention=flex"), prepared_masks(model, "flex"):
        pass
    with prepared_masks(model, "dense"):
        assert model.language_model.config._attn_implementation != IMPLEMENTATION


def test_seeing_all_previous_images_is_refused(backbones):
    model = tiny.flamingo(backbones, fusion={"attend": "previous"})
    with pytest.raises(UserError, match=r"fusion\.attend"):
        model(**moved(pack([[example] for example in examples()], 16, 0)))
