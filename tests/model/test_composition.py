"""The check of a composition: its record, when it runs, and that it changes nothing."""

import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, set_seed

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.model import composition
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices


@pytest.fixture
def checked(monkeypatch):
    """Counts the runs of the probe on a language model."""
    runs = []
    check = composition.check_language_model
    monkeypatch.setattr(
        composition, "check_language_model", lambda *args: runs.append(type(args[0].language_model)) or check(*args)
    )
    return runs


def global_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def contents(model):
    state = {name: tensor.clone() for name, tensor in model.named_parameters()}
    state |= {f"buffer {name}": tensor.clone() for name, tensor in model.named_buffers()}
    return state, {name: module.training for name, module in model.named_modules()}


def assert_same_contents(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())
    assert one[1] == other[1]


@pytest.mark.parametrize("gate", ["scalar", "vector", "none"])
def test_switched_off_no_result_changes(backbones, gate):
    settings = {"language": "gemma3_text", "vision": "mobilenet_v2", "fusion": {"gate": gate}}
    set_seed(5)
    plain = tiny.flamingo(backbones, **settings, check=False)
    state = global_states()
    set_seed(5)
    model = tiny.flamingo(backbones, **settings, check=True)
    assert global_states() == state
    assert_same_contents(contents(model), contents(plain))
    images = torch.randn(2, 3, 3, 64, 64)
    inputs = {**tiny.inputs(), "pixel_values": images}
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    assert (model.config.passed_check is not None, plain.config.passed_check) == (True, None)


def test_what_a_forward_pass_changes_in_a_model_is_restored(gpt2):
    """Buffers that are replaced or written to, attributes, lists and generators, also where the probe fails."""

    class Restless(torch.nn.Identity):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("inv_freq", torch.ones(3))
            self.longest, self.table, self.seen = 4, torch.zeros(2), []

        def forward(self, x):
            self.count += 1
            self.register_buffer("inv_freq", torch.zeros(5))
            self.register_buffer("fresh", torch.zeros(5))
            self.longest = self.added = 99
            self.table += 1
            self.seen.append(1)
            torch.rand(1), random.random(), np.random.rand()
            return x

    restless = gpt2.language_model.transformer.h[2].restless = Restless()
    gpt2.language_model.transformer.h[2].mlp.register_forward_hook(lambda module, args, output: restless(output))
    gpt2.train()
    before, state = contents(gpt2), global_states()
    inv_freq, table = restless.inv_freq, restless.table
    composition.check_composition(gpt2)
    gpt2.language_model.transformer.h[2].mlp.register_forward_hook(lambda module, args, output: output / 0)
    with pytest.raises(UserError, match="not finite"):
        composition.check_composition(gpt2)
    assert_same_contents(contents(gpt2), before)
    assert global_states() == state
    assert restless.inv_freq is inv_freq and restless.table is table
    assert (restless.longest, restless.table.tolist(), restless.seen) == (4, [0, 0], [])
    assert not hasattr(restless, "added")


def test_a_checkpoint_that_passed_is_not_checked_again(gpt2, backbones, tmp_path, checked):
    model = tiny.flamingo(backbones, check=True)
    assert len(checked) == 1
    for include_backbones in (True, False):
        model.save_pretrained(tmp_path, include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path).to(devices.DEVICE)
        assert loaded.config.passed_check == model.config.passed_check
    assert len(checked) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": torch.bfloat16},
        {"attn_implementation": "eager"},
        {"text_kwargs": {"attn_implementation": "eager"}},
        {"vision_kwargs": {"dtype": torch.bfloat16}},
    ],
)
def test_a_checkpoint_is_checked_again_in_other_circumstances(backbones, tmp_path, checked, other):
    tiny.flamingo(backbones, check=True).save_pretrained(tmp_path, include_backbones=False)
    checked.clear()
    FlamingoForConditionalGeneration.from_pretrained(tmp_path, **other).to(devices.DEVICE)
    assert len(checked) == 1
    FlamingoForConditionalGeneration.from_pretrained(tmp_path, **other, check=False).to(devices.DEVICE)
    assert len(checked) == 1


def test_a_checkpoint_is_checked_again_with_other_features(backbones, tmp_path, checked):
    tiny.flamingo(backbones, check=True).save_pretrained(tmp_path)
    checked.clear()
    config = FlamingoConfig.from_pretrained(tmp_path)
    config.vision_features.hidden_state = -2
    FlamingoForConditionalGeneration.from_pretrained(tmp_path, config=config).to(devices.DEVICE)
    assert len(checked) == 1


def test_features_of_another_width_than_the_config_are_refused(backbones):
    with pytest.raises(UserError, match=r"vision_width is 25, but .* CLIPVisionModel are 24 wide"):
        tiny.flamingo(backbones, vision_width=25, check=True)


def test_a_checkpoint_is_checked_again_with_another_version(backbones, tmp_path, checked, monkeypatch):
    tiny.flamingo(backbones, check=False).save_pretrained(tmp_path / "unchecked")
    tiny.flamingo(backbones, check=True).save_pretrained(tmp_path / "checked")
    checked.clear()
    FlamingoForConditionalGeneration.from_pretrained(tmp_path / "unchecked").to(devices.DEVICE)
    assert len(checked) == 1
    monkeypatch.setattr(composition.transformers, "__version__", "5.99.0")
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "checked").to(devices.DEVICE)
    assert len(checked) == 2
    assert loaded.config.passed_check["transformers"] == "5.99.0"


def test_a_backbone_that_is_replaced_is_checked(backbones, checked):
    model = tiny.flamingo(backbones, language="llama", check=True)
    bare = model.language_model
    model.language_model = get_peft_model(bare, LoraConfig(target_modules=["q_proj"]))
    model.language_model = model.language_model.merge_and_unload()
    assert len(checked) == 3
    unchecked = tiny.flamingo(backbones, language="llama", check=False)
    unchecked.language_model = get_peft_model(unchecked.language_model, LoraConfig(target_modules=["q_proj"]))
    assert len(checked) == 3


def test_an_inserted_adapter_is_checked_before_it_trains(backbones, checked):
    model = tiny.flamingo(backbones, language="llama", check=True)
    model.train()
    assert len(checked) == 1
    model.language_model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    model.train()
    assert len(checked) == 2
    assert model.training and not model.language_model.model.layers[0].mlp.training
    model.eval().train()
    assert len(checked) == 2


def test_another_model_whose_layers_have_no_hooks_is_refused(backbones):
    model = tiny.flamingo(backbones, language="llama", check=True)
    with pytest.raises(UserError, match=r"LlamaForCausalLM.* layer 1, 3"):
        model.language_model = AutoModelForCausalLM.from_pretrained(backbones / "llama").to(devices.DEVICE)
