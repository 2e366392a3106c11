"""Frozen backbones quantised by transformers, with trained parts in full precision."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig

from experiments.runs.run_evaluation import run_evaluation
from experiments.runs.run_training import run_training
from experiments.setup.build import load_model
from flamingo import FlamingoForConditionalGeneration
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import add_adapter, is_of_adapter
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.configs import composed
from tests.helpers.small_runs import ONE_SETTING, TWO_STEPS

pytest.importorskip("bitsandbytes")  # a GPU machine may lack it

INT8 = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
#: The tiny model has large weights, which carry small differences far.
CLOSE = 0.15


@pytest.fixture
def plain(backbones):
    return tiny.flamingo(backbones, language="llama")


@pytest.fixture
def saved(plain, tmp_path):
    plain.save_pretrained(tmp_path / "plain", include_backbones=False)
    return tmp_path / "plain"


@torch.no_grad()
def difference(one, other):
    """The root mean square of the logits' difference, in standard deviations of the logits."""
    inputs = tiny.inputs()
    logits = one(**inputs).logits
    return float((logits - other(**inputs).logits).square().mean().sqrt() / logits.std())


def quantised(model):
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if type(parameter) is not torch.nn.Parameter or parameter.dtype == torch.int8
    }


def test_a_checkpoint_meets_its_language_model_quantised(plain, saved):
    model = FlamingoForConditionalGeneration.from_pretrained(saved, text_kwargs=INT8)
    assert quantised(model) == {"language_model"}
    assert 0 < difference(plain, model) < CLOSE
    inputs = tiny.inputs()
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    names = set(model.trainable_parameter_names())
    assert names == set(plain.trainable_parameter_names())
    assert all((p.grad is not None) == (name in names) for name, p in model.named_parameters())
    model.eval()
    cached = model.generate(**inputs, max_new_tokens=5, num_beams=2)
    assert torch.equal(cached, model.generate(**inputs, max_new_tokens=5, num_beams=2, use_cache=False))


def test_quantised_backbones_are_left_out_of_checkpoints(backbones, tmp_path):
    names = str(backbones / "clip_vision_model"), str(backbones / "llama")
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        *names, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS, text_kwargs=INT8
    ).eval()
    tiny.open_gates(model, 0.7)
    with pytest.raises(UserError, match="language_model"):
        model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, include_backbones=False)
    again = FlamingoForConditionalGeneration.from_pretrained(tmp_path, text_kwargs=INT8)
    assert difference(model, again) == 0
    in_full = FlamingoForConditionalGeneration.from_pretrained(tmp_path)
    assert quantised(in_full) == set()
    assert 0 < difference(in_full, model) < CLOSE


def test_an_adapter_on_a_quantised_model_is_not_lost_silently(saved, tmp_path):
    model = FlamingoForConditionalGeneration.from_pretrained(saved, text_kwargs=INT8)
    model.language_model = get_peft_model(model.language_model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match="language_model"):
        model.save_pretrained(tmp_path / "adapted", include_backbones=False)


def test_an_adapter_on_a_quantised_model_is_saved_alone(saved, tmp_path):
    model = FlamingoForConditionalGeneration.from_pretrained(saved, text_kwargs=INT8)
    add_adapter(model, AdapterConfig("lora", settings={"r": 2, "target_modules": ["q_proj"]}))
    for name, parameter in model.named_parameters():
        if is_of_adapter(name):
            parameter.data += 0.1
    assert difference(FlamingoForConditionalGeneration.from_pretrained(saved, text_kwargs=INT8), model) > 0
    model.save_pretrained(tmp_path / "adapted", include_backbones=False)
    again = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "adapted", text_kwargs=INT8)
    assert difference(model, again) == 0
    assert quantised(again) == {"language_model"}


def test_other_weights_are_recognised_behind_quantised_ones(backbones, saved, monkeypatch):
    config = FlamingoForConditionalGeneration.config_class.from_pretrained(saved)
    config.backbones["language_model"]["name"] = str(backbones / "mistral")
    config.save_pretrained(saved)
    with pytest.raises(UserError, match="mistral"):
        FlamingoForConditionalGeneration.from_pretrained(saved, text_kwargs=INT8)


def test_trained_parts_are_not_quantised_by_mistake(plain, saved, tmp_path):
    plain.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="quantization_config"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path / "whole", **INT8)
    with pytest.raises(ValueError, match="vision_kwargs"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path / "whole", text_kwargs=INT8)
    with pytest.raises(ValueError, match="quantization_config"):
        FlamingoForConditionalGeneration.from_pretrained(saved, **INT8)


def test_dtype_int8_is_int8_layers_among_bfloat16_weights(plain, saved):
    model = FlamingoForConditionalGeneration.from_pretrained(saved, dtype="int8")
    assert quantised(model) == {"language_model"}
    parts = (model.language_model.get_input_embeddings(), model.vision_model)
    assert all(parameter.dtype == torch.bfloat16 for part in parts for parameter in part.parameters())
    assert model.language_model.dtype == torch.bfloat16 and model.connector.latents.dtype == torch.float32
    assert 0 < difference(plain, model) < CLOSE


def test_dtype_int8_needs_a_checkpoint_without_backbones(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="include_backbones=false"):
        FlamingoForConditionalGeneration.from_pretrained(tmp_path, dtype="int8")


@pytest.mark.full
def test_a_run_in_int8_is_evaluated_in_int8(tmp_path):
    run = tmp_path / "run"
    overrides = ("dtype=int8", "training.precision=bf16", "include_backbones=false", f"output={run}")
    run_training(composed("train", *TWO_STEPS, *overrides), run)
    run_evaluation(composed("evaluate", f"run={run}", "dtype=int8", *ONE_SETTING))
    assert json.loads((run / "scores.json").read_text())
    model, _ = load_model(run / "checkpoint", "auto")
    assert quantised(model) == set() and model.language_model.dtype == torch.bfloat16
