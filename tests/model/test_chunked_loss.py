"""The loss in chunks against that of whole logits: the same loss and gradients, by the same forward pass."""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo.data.collate import label_places
from flamingo.model import chunked_loss, modeling
from flamingo.model.logit_function import LogitFunction
from tests import tiny
from tests.helpers.host_reads import HostReads
from tests.helpers.model_calls import loss_and_gradients

#: Tied and untied heads, with and without a bias, and one whose input is narrower than the layers.
FAMILIES = ["gpt2", "llama", "phi", "opt"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Two full chunks and a part of one: the tests' batches have 20 labels."""
    monkeypatch.setattr(chunked_loss, "CHUNK", 8)


def batch(model):
    made = tiny.inputs()
    labels = made["input_ids"].clone()
    labels[0, :5] = labels[1, 7] = labels[1, 3] = -100
    made["pixel_values"] = made["pixel_values"].to(model.vision_model.dtype)
    return {**made, "labels": labels}


def in_chunks(monkeypatch, model, inputs):
    monkeypatch.setattr(modeling, "WHOLE_LOGITS_BYTES", 0)
    inputs = {**inputs, "label_places": label_places(inputs["labels"])}
    assert model(**inputs).logits is None
    return loss_and_gradients(model, inputs)


def assert_equal(chunked, whole, **tolerance):
    torch.testing.assert_close(chunked[0], whole[0], **tolerance)
    assert chunked[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(
            chunked[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_of_whole_logits(backbones, monkeypatch, family):
    model = tiny.flamingo(backbones, language=family).double()
    whole = loss_and_gradients(model, batch(model))
    assert whole[0].dtype == torch.float64
    assert_equal(in_chunks(monkeypatch, model, batch(model)), whole, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("new_token_ids", [[], [290, 295], [305, 303], [299, 301]])
def test_new_tokens_may_replace_rows_or_leave_a_gap(backbones, monkeypatch, new_token_ids):
    model = tiny.flamingo(backbones, language="llama", new_token_ids=new_token_ids).double()
    inputs = batch(model)
    new = inputs["input_ids"] >= tiny.VOCABULARY
    for name in ("input_ids", "labels"):
        inputs[name] = inputs[name].masked_fill(new, new_token_ids[1] if new_token_ids else 5)
    for parameter in model.new_tokens.parameters():
        parameter.data.normal_()
    whole = loss_and_gradients(model, inputs)
    assert_equal(in_chunks(monkeypatch, model, inputs), whole, atol=1e-12, rtol=1e-10)


def test_a_trained_tied_head_gets_its_gradient(backbones, monkeypatch):
    model = tiny.flamingo(backbones).double()
    model.train_parts(["language_model", "new_tokens", "connector", "fusion"])
    whole = loss_and_gradients(model, batch(model))
    assert whole[1]["language_model.transformer.wte.weight"].abs().amax(dim=1).min() > 0  # rows of the output, too
    assert_equal(in_chunks(monkeypatch, model, batch(model)), whole, atol=1e-12, rtol=1e-10)


def test_under_autocast_both_losses_round_alike(backbones, monkeypatch):
    model = tiny.flamingo(backbones, language="llama")
    exact = loss_and_gradients(model, batch(model))
    with torch.autocast(model.device.type, torch.bfloat16):
        whole = loss_and_gradients(model, batch(model))
        chunked = in_chunks(monkeypatch, model, batch(model))
    torch.testing.assert_close(chunked[0], whole[0], atol=0, rtol=1e-5)
    assert 0 < error(chunked, exact) < 1.2 * error(whole, exact)


def error(computed, exact):
    differences = [computed[1][name] - gradient for name, gradient in exact[1].items()]
    return torch.cat([difference.flatten() for difference in differences]).norm()


def test_checkpointed_layers_and_a_given_count(backbones, monkeypatch):
    model = tiny.flamingo(backbones).double().train()
    whole = loss_and_gradients(model, batch(model) | {"num_items_in_batch": 70})
    model.gradient_checkpointing_enable()
    chunked = in_chunks(monkeypatch, model, batch(model) | {"num_items_in_batch": 70})
    assert_equal(chunked, whole, atol=1e-12, rtol=1e-10)


def test_without_labels_loss_and_gradients_are_zero(gpt2, monkeypatch):
    nothing = torch.full_like(batch(gpt2)["labels"], -100)
    loss, gradients = in_chunks(monkeypatch, gpt2, batch(gpt2) | {"labels": nothing})
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())


def test_without_gradients_the_loss_is_the_same(gpt2, monkeypatch):
    loss, _ = in_chunks(monkeypatch, gpt2, batch(gpt2))
    places = label_places(batch(gpt2)["labels"])
    with torch.no_grad():
        assert torch.equal(gpt2(**batch(gpt2), label_places=places).loss, loss)


@pytest.mark.parametrize(
    ("family", "settings", "function"),
    [
        ("gemma2", {"final_logit_softcapping": 3.0}, LogitFunction(1.0, 3.0)),
        ("cohere", {"logit_scale": 0.25}, LogitFunction(0.25)),
        ("granite", {"logits_scaling": 3.0}, LogitFunction(1 / 3)),
    ],
)
def test_scaled_and_capped_logits_are_recognised(backbones, monkeypatch, family, settings, function):
    config = AutoConfig.for_model(family, vocab_size=tiny.VOCABULARY, **tiny.LANGUAGE_MODELS["llama"], **settings)
    folder = backbones / f"{family} with another function"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = tiny.flamingo(backbones, language=folder.name).double()
    for parameter in model.new_tokens.parameters():
        parameter.data.normal_()
    whole = loss_and_gradients(model, batch(model))
    assert_equal(in_chunks(monkeypatch, model, batch(model)), whole, atol=1e-12, rtol=1e-10)
    measured = model.new_token_logits.function(model.language_model, torch.zeros(1, 2, 32))
    assert measured.scale == pytest.approx(function.scale)
    assert measured.cap == (function.cap and pytest.approx(function.cap))


def test_other_changes_of_logits_need_them_whole(gpt2, monkeypatch, caplog):
    def change(model, args, output):
        output.logits = output.logits.sin()
        return output

    gpt2.language_model.register_forward_hook(change)
    expected = loss_and_gradients(gpt2, batch(gpt2))
    monkeypatch.setattr(modeling, "WHOLE_LOGITS_BYTES", 0)
    inputs = batch(gpt2) | {"label_places": label_places(batch(gpt2)["labels"])}
    with caplog.at_level(logging.INFO):
        assert_equal(loss_and_gradients(gpt2, inputs), expected, atol=0, rtol=0)
        assert gpt2(**inputs).logits is not None
    assert [record.name for record in caplog.records] == ["flamingo.model.new_token_logits"]


def test_the_measurement_of_the_logits_draws_no_random_number(gpt2):
    """Layers with dropout, such as an adapter's, draw numbers."""
    layer = gpt2.language_model.transformer.h[0]
    layer.register_forward_hook(lambda layer, args, output: torch.nn.functional.dropout(output, 0.5))
    state = torch.get_rng_state()
    assert gpt2.new_token_logits.function(gpt2.language_model, torch.zeros(1, 2, 32)) == LogitFunction()
    assert torch.equal(torch.get_rng_state(), state)


class Largest(TorchDispatchMode):
    """Notes the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_as_large_as_the_logits_of_all_labels(gpt2, monkeypatch):
    inputs = tiny.inputs(documents=4)
    inputs["labels"] = inputs["input_ids"]
    places = label_places(inputs["labels"])
    in_chunks(monkeypatch, gpt2, inputs)
    gpt2.zero_grad(set_to_none=False)
    with Largest() as largest:
        gpt2(**inputs, label_places=places).loss.backward()
    assert largest.elements < len(places) * tiny.VOCABULARY


def test_nothing_is_read_back_from_the_device(gpt2, monkeypatch):
    inputs = batch(gpt2)
    ready = {"image_places": torch.arange(6), "position_ids": torch.arange(14).repeat(2, 1), "attention_mask": None}
    inputs = inputs | ready | {"label_places": label_places(inputs["labels"])}
    monkeypatch.setattr(modeling, "WHOLE_LOGITS_BYTES", 0)
    gpt2(**inputs)  # measures once what becomes of the logits
    with HostReads(monkeypatch) as reads:
        loss = gpt2(**inputs).loss
        loss.backward()
    assert not reads.found["ours"]
    assert not reads.found["others"]
