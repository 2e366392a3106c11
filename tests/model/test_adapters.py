"""LoRA by peft on the language model, in one line."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from flamingo import FlamingoForConditionalGeneration
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices


def adapted(model):
    """With an adapter that makes a difference, as after training."""
    model.language_model = get_peft_model(model.language_model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    return model


@pytest.fixture
def model(backbones):
    return adapted(tiny.flamingo(backbones, language="llama"))


def test_the_adapter_trains_beside_what_trained_already(backbones, model):
    before = set(tiny.flamingo(backbones, language="llama").trainable_parameter_names())
    trained = set(model.trainable_parameter_names())
    assert {name for name in trained if "lora_" not in name} == before
    assert {name.split(".")[0] for name in trained - before} == {"language_model"}
    inputs = tiny.inputs()
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_it_changes_what_is_said_and_images_are_still_seen(backbones, model):
    inputs = tiny.inputs()
    logits = model(**inputs).logits
    assert (logits - tiny.flamingo(backbones, language="llama")(**inputs).logits).abs().max() > 1e-2
    assert (logits - model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(1)}).logits).abs().max() > 1e-2
    cached = model.generate(**inputs, max_new_tokens=6, num_beams=2)
    assert torch.equal(cached, model.generate(**inputs, max_new_tokens=6, num_beams=2, use_cache=False))


def test_merged_it_is_saved_with_the_model(model, tmp_path):
    inputs = tiny.inputs()
    expected = model(**inputs).logits
    with pytest.raises(UserError, match="language_model"):
        model.save_pretrained(tmp_path, include_backbones=False)
    model.language_model = model.language_model.merge_and_unload()
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
