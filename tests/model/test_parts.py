"""Frozen modules run in evaluation mode, whatever other parts train."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from flamingo import FlamingoForConditionalGeneration
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.utils.devices import META
from tests import tiny
from tests.compatibility.decoders import save_language_model
from tests.helpers import devices

PARTS = BACKBONES + TRAINED_PARTS


def modes(module):
    return {name: child.training for name, child in module.named_modules()}


@pytest.fixture
def phimoe(backbones, tmp_path):
    save_language_model("phimoe", tmp_path)
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "mobilenet_v2",
        tmp_path,
        new_token_ids=tiny.NEW_TOKEN_IDS,
        **tiny.PARTS,
        vision_features={"class_token": "none"},
    )
    model.language_model.config.router_jitter_noise = 0.5
    tiny.open_gates(model, 0.7)
    model.place(devices.DEVICE)
    return model


def inputs():
    return {**tiny.inputs(), "pixel_values": torch.randn(2, 3, 3, 64, 64)}


def test_a_frozen_router_draws_no_noise_in_training(phimoe):
    batch = inputs()
    expected = phimoe.eval()(**batch).logits
    phimoe.train()
    state = torch.get_rng_state()
    assert torch.equal(phimoe(**batch).logits, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert phimoe.training and phimoe.fusion.blocks["1"].training and phimoe.connector.training
    assert not any([*modes(phimoe.language_model).values(), *modes(phimoe.vision_model).values()])


def test_a_frozen_language_model_recomputes_without_dropout(phimoe):
    batch = inputs()
    expected = phimoe.eval()(**batch).logits
    phimoe.train()
    phimoe.gradient_checkpointing_enable()
    layers = phimoe.language_model.model.layers
    assert all(layer.training and not layer.mlp.router.training for layer in layers)
    runs = []
    layers[2].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    phimoe(**batch, labels=batch["input_ids"]).loss.backward()
    assert len(runs) == 2
    assert torch.equal(phimoe(**batch).logits, expected)
    phimoe.eval()
    assert not any(modes(phimoe).values())


def test_modules_frozen_beside_an_adapter_stay_in_eval_mode(phimoe):
    phimoe.language_model = get_peft_model(
        phimoe.language_model, LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    )
    phimoe.train()
    trained = {name for name, mode in modes(phimoe.language_model).items() if mode}
    layer = "base_model.model.model.layers.0"
    assert {f"{layer}.self_attn.q_proj.{name}" for name in ("lora_A.default", "lora_dropout.default")} <= trained
    assert not {f"{layer}.mlp", f"{layer}.mlp.router", f"{layer}.self_attn.q_proj.base_layer"} & trained
    batch = inputs()
    assert not torch.equal(phimoe(**batch).logits, phimoe(**batch).logits)  # the adapter's dropout


@pytest.mark.parametrize("part", ["language_model", "vision_model"])
def test_a_trained_backbone_keeps_its_batch_norms_in_eval_mode(phimoe, part):
    phimoe.train()
    phimoe.train_parts([part])
    other = "vision_model" if part == "language_model" else "language_model"
    assert not any(modes(getattr(phimoe, other)).values())
    for module in getattr(phimoe, part).modules():
        assert module.training is not isinstance(module, nn.BatchNorm2d)
    phimoe.train_parts(["connector"])
    assert not any(modes(getattr(phimoe, part)).values())


def test_test_models_and_inputs_are_on_the_chosen_device(gpt2, device):
    assert {parameter.device.type for parameter in gpt2.parameters()} == {device.type}
    assert {tensor.device.type for tensor in tiny.inputs().values()} == {device.type}
    assert torch.zeros(2).device.type == torch.tensor([1]).device.type == device.type
    gpt2(**tiny.inputs(), labels=tiny.inputs()["input_ids"]).loss.backward()
    assert {parameter.grad.device.type for parameter in gpt2.parameters() if parameter.requires_grad} == {device.type}


def test_a_placed_model_moves_unless_quantised_or_mapped(backbones, device):
    def placed(**marks):
        model = tiny.flamingo(backbones)
        for mark, part in marks.items():
            setattr(getattr(model, part), mark, {})
        model.place(META)
        return {part: {tensor.is_meta for tensor in getattr(model, part).parameters()} for part in PARTS}

    assert placed() == {part: {True} for part in PARTS}
    language = placed(hf_quantizer="language_model")
    assert language["vision_model"] == {True}
    # The trained parts stay on the device of the language model.
    assert [language[part] for part in PARTS if part != "vision_model"] == [{False}] * (len(PARTS) - 1)
    vision = placed(hf_device_map="vision_model")
    assert [part for part in PARTS if vision[part] == {False}] == ["vision_model"]


def test_backbones_in_two_dtypes_are_loaded_in_the_wider(backbones, tmp_path):
    """The language model was trained in float32, the encoder stayed as it was."""
    model = tiny.flamingo(backbones, dtype=torch.bfloat16)
    model.language_model.float()
    for parameter in model.language_model.parameters():
        parameter.data += 1e-4
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.language_model.dtype == loaded.vision_model.dtype == torch.float32
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].to(tensor))
