"""A language model whose weights are read after sharding has the weights of an eager load, bit for bit."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.fingerprints import fingerprint
from flamingo.model.language import load_text_model
from flamingo.model.sharded_loading import defer_weights, is_deferred, load_deferred, mean_row
from flamingo.utils.devices import HOST
from flamingo.utils.errors import UserError
from tests import tiny
from tests.compatibility.decoders import save_language_model
from tests.helpers.forked import values_of_processes

#: Families whose weights transformers converts on loading: it splits tensors along their rows, and merges experts.
CONVERTED = {
    "hrm_text": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8},
    "mixtral": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 3,
    },
}


def full(*values: str) -> list[Any]:
    """Returns parameters of tests that `make test-all` alone runs."""
    return [pytest.param(value, marks=pytest.mark.full) for value in values]


@pytest.fixture
def converted(tmp_path, request):
    """Returns the folder of a family whose weights are converted."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, vocab_size=tiny.VOCABULARY, **CONVERTED[request.param])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    """Checks all weights and buffers, their precision, and which of them are shared."""
    for tensors in ("state_dict", "named_buffers"):
        values, expected_values = dict(getattr(model, tensors)()), dict(getattr(expected, tensors)())
        assert list(values) == list(expected_values)
        for name, value in values.items():
            assert value.dtype == expected_values[name].dtype, name
            assert torch.equal(whole(value), expected_values[name]), name
    assert len(list(model.parameters())) == len(list(expected.parameters()))
    assert model.all_tied_weights_keys == expected.all_tied_weights_keys


def sharded_like(folder: Path, dtype: str) -> None:
    """Loads a language model sharded, and checks it in this process."""
    model = load_text_model(folder, load=defer_weights, dtype=dtype)
    expected_fingerprint = fingerprint(model)
    mesh = init_device_mesh("cpu", (2,))
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    load_deferred(model, HOST)
    eager = load_text_model(folder, dtype=dtype)
    assert_equal(model, eager)
    assert fingerprint(model) == fingerprint(eager) == expected_fingerprint
    ids = torch.arange(12).unsqueeze(0)
    torch.testing.assert_close(model(ids).logits, eager(ids).logits)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", *full("opt", "mosaic_gpt")])
@pytest.mark.parametrize("dtype", ["bfloat16", *full("auto")])
def test_weights_and_buffers_equal_those_of_an_eager_load(backbones, family, dtype):
    model = load_text_model(backbones / family, load=defer_weights, dtype=dtype)
    assert all(parameter.is_meta for parameter in model.parameters())
    load_deferred(model, HOST)
    assert not is_deferred(model)
    eager = load_text_model(backbones / family, dtype=dtype)
    assert type(model) is type(eager)
    assert_equal(model, eager)
    assert model.config.to_dict() == eager.config.to_dict()
    assert model.generation_config.to_dict() == eager.generation_config.to_dict()


@pytest.mark.parametrize("family", ["falcon_h1", *full("gemma3")])
def test_text_models_and_buffers_that_other_modules_fill(tmp_path, family):
    save_language_model(family, tmp_path)
    model = load_text_model(tmp_path, load=defer_weights, dtype="bfloat16")
    load_deferred(model, HOST)
    assert_equal(model, load_text_model(tmp_path, dtype="bfloat16"))


@pytest.mark.parametrize("converted", ["mixtral", *full("hrm_text")], indirect=True)
def test_weights_are_converted(converted):
    model = load_text_model(converted, load=defer_weights, dtype="bfloat16")
    load_deferred(model, HOST)
    assert_equal(model, load_text_model(converted, dtype="bfloat16"))


def test_weights_that_a_family_keeps_in_float32_stay_in_it(backbones, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["input_layernorm"])
    model = load_text_model(backbones / "llama", load=defer_weights, dtype="bfloat16")
    load_deferred(model, HOST)
    assert model.model.layers[0].input_layernorm.weight.dtype == torch.float32
    assert_equal(model, load_text_model(backbones / "llama", dtype="bfloat16"))


@pytest.mark.full
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
def test_shards_equal_those_of_an_eager_load(backbones, family):
    values_of_processes(2, sharded_like, backbones / family, "bfloat16")


@pytest.mark.full
@pytest.mark.parametrize("converted", CONVERTED, indirect=True)
def test_converted_weights_are_sharded_after_conversion(converted):
    values_of_processes(2, sharded_like, converted, "auto")


def test_files_may_be_several_and_lack_the_prefix(backbones, tmp_path):
    eager = load_text_model(backbones / "qwen2")
    eager.config.save_pretrained(tmp_path)
    eager.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    eager.config.save_pretrained(tmp_path)  # a base model saves its own class
    model = load_text_model(tmp_path, load=defer_weights)
    load_deferred(model, HOST)
    assert_equal(model, eager)


@pytest.mark.parametrize("family", ["gpt2", *full("llama")])
@pytest.mark.parametrize("dtype", ["bfloat16", *full("float32")])
def test_fingerprints_and_means_need_no_loading(backbones, family, dtype):
    model = load_text_model(backbones / family, load=defer_weights, dtype=dtype)
    eager = load_text_model(backbones / family, dtype=dtype)
    assert fingerprint(model) == fingerprint(eager)
    for module, expected in (
        (model.get_input_embeddings(), eager.get_input_embeddings()),
        (model.get_output_embeddings(), eager.get_output_embeddings()),
    ):
        assert torch.equal(mean_row(model, module), expected.weight.mean(dim=0))


def test_tied_weights_with_two_values_in_the_files_are_not_tied(backbones, tmp_path):
    eager = load_text_model(backbones / "qwen2")
    eager.config.save_pretrained(tmp_path)
    weights = load_file(backbones / "qwen2" / "model.safetensors")
    for head in (weights["model.embed_tokens.weight"].clone(), weights["model.embed_tokens.weight"] + 1):
        save_file(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors", {"format": "pt"})
        model = load_text_model(tmp_path, load=defer_weights)
        load_deferred(model, HOST)
        assert_equal(model, load_text_model(tmp_path))


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("model.norm.weight", None),
        ("model.layers.0.mlp.up_proj.weight", torch.zeros(48, 31)),
        ("model.layers.9.mlp.up_proj.weight", torch.zeros(48, 32)),
    ],
)
def test_keys_and_shapes_are_checked_before_weights_are_read(backbones, tmp_path, key, changed):
    AutoConfig.from_pretrained(backbones / "llama").save_pretrained(tmp_path)
    weights = load_file(backbones / "llama" / "model.safetensors")
    weights.pop(key, None)
    if changed is not None:
        weights[key] = changed
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=key):
        load_text_model(tmp_path, load=defer_weights)


def test_weights_outside_safetensors_are_loaded_whole(backbones, tmp_path, caplog):
    AutoConfig.from_pretrained(backbones / "llama").save_pretrained(tmp_path)
    torch.save(load_file(backbones / "llama" / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        model = load_text_model(tmp_path, load=defer_weights)
    assert not is_deferred(model)
    assert str(tmp_path) in caplog.text
    assert_equal(model, load_text_model(backbones / "llama"))


def composed(backbones: Path, text_kwargs: dict, **arguments) -> FlamingoForConditionalGeneration:
    torch.manual_seed(0)
    model = tiny.flamingo(backbones, language="qwen2", text_kwargs=text_kwargs, **arguments)
    model.train_parts(["connector", "fusion", "new_tokens"])
    return model


def test_a_deferred_composition_equals_an_eager_one(backbones):
    eager = composed(backbones, {})
    model = composed(backbones, {"load": defer_weights})
    assert is_deferred(model.language_model)
    load_deferred(model.language_model, HOST)
    assert_equal(model, eager)
    assert model.config.backbones == eager.config.backbones
    inputs = tiny.inputs()
    assert torch.equal(model(**inputs).logits, eager(**inputs).logits)


@pytest.mark.parametrize("kind", ["lora", *full("vera", "ia3")])
def test_an_adapter_is_added_before_weights_are_read(backbones, kind):
    adapter = AdapterConfig(kind, "language_model", {"target_modules": ["q_proj", "v_proj"]})
    adapter.settings |= {"feedforward_modules": []} if kind == "ia3" else {}
    eager = composed(backbones, {}, adapter=adapter)
    model = composed(backbones, {"load": defer_weights}, adapter=adapter)
    load_deferred(model.language_model, HOST)
    assert_equal(model, eager)
    assert model.trainable_parameter_names() == eager.trainable_parameter_names()


def test_an_adapter_that_needs_the_weights_is_refused(backbones):
    adapter = AdapterConfig("lora", "language_model", {"target_modules": ["q_proj"], "use_dora": True})
    with pytest.raises(UserError, match="parallel"):
        composed(backbones, {"load": defer_weights}, adapter=adapter)
