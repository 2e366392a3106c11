"""Language models of every architecture: the loaded part, missing weights, and models that are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTForImageClassification,
)

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.language import has_plain_cache, load_text_model
from flamingo.model.vision_loading import load_vision_model
from flamingo.utils.errors import UserError
from tests import tiny
from tests.compatibility.decoders import save_language_model
from tests.helpers import devices

BEAMS = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def composed(backbones, folder, **settings):
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        backbones / "clip_vision_model", folder, new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS, **settings
    ).eval()
    tiny.open_gates(model, 0.7)
    model.place(devices.DEVICE)
    return model


@pytest.mark.parametrize(("family", "plain"), [("qwen3_5_text", False), ("granitemoe", True)])
def test_generation_is_right_with_any_kind_of_cache(backbones, tmp_path, family, plain):
    """Qwen3.5 has layers of linear attention, whose cache cannot be repeated for the beams of a prompt."""
    save_language_model(family, tmp_path)
    model = composed(backbones, tmp_path)
    assert has_plain_cache(model.language_model) is plain
    inputs = tiny.inputs()
    inputs["attention_mask"][1, :5] = 0
    for beams in (1, 3):
        settings = {**BEAMS, "num_beams": beams}
        expected = model.generate(**inputs, **settings, use_cache=False)
        assert torch.equal(model.generate(**inputs, **settings), expected)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mamba", r"recurrent state \(cache_params\)"),
        ("rwkv", r"recurrent state \(state\)"),
        ("cpmant", "no inputs_embeds"),
        ("gemma3n_text", "per-layer inputs by token id"),
        ("bart", "position_ids"),
        ("hy_v4", "one vector for each token"),
        ("minimax", "beam search with its cache"),
    ],
)
def test_an_unsupported_architecture_is_refused_with_its_reason(backbones, tmp_path, family, reason):
    save_language_model(family, tmp_path)
    with pytest.raises(UserError, match=rf"^\w+ForCausalLM.*{reason}"):
        composed(backbones, tmp_path)


def test_what_has_no_causal_language_model_is_refused(backbones, tmp_path):
    config = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no causal language model of the model type t5"):
        load_text_model(tmp_path)
    with pytest.raises(UserError, match="no causal language model of the model type clip_vision_model"):
        load_text_model(backbones / "clip_vision_model")
    with pytest.raises(UserError, match=f"language model {tmp_path / 'none'}"):
        load_text_model(tmp_path / "none")


@pytest.mark.parametrize(("family", "text"), [("gemma3", "Gemma3ForCausalLM"), ("mllama", "MllamaForCausalLM")])
def test_of_a_multimodal_model_the_text_model_is_taken(tmp_path, family, text):
    """Of Mllama's text model transformers' automatic classes know nothing."""
    save_language_model(family, tmp_path)
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path).to(devices.DEVICE)
    model = load_text_model(tmp_path).to(devices.DEVICE)
    assert type(model).__name__ == text
    ids = torch.arange(3, 13).unsqueeze(0)
    assert torch.equal(model(ids).logits, whole(input_ids=ids).logits)


def test_a_multimodal_models_text_is_saved_and_loaded_again(backbones, tmp_path):
    save_language_model("gemma3", tmp_path / "language")
    model = composed(backbones, tmp_path / "language")
    expected = model(**tiny.inputs()).logits
    for include_backbones in (True, False):
        model.save_pretrained(tmp_path / "flamingo", include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo").to(devices.DEVICE)
        assert torch.equal(loaded(**tiny.inputs()).logits, expected)


def test_unsaved_buffers_of_a_backbone_are_those_of_its_config(backbones, tmp_path):
    """transformers did not initialise a module that has no parameters of its own, but fills buffers of others."""
    save_language_model("falcon_h1", tmp_path / "language")
    model = composed(backbones, tmp_path / "language", check=False)
    model.save_pretrained(tmp_path / "flamingo")
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo", check=False).to(devices.DEVICE)
    buffers = dict(loaded.named_buffers())
    assert any("mup_vector" in name for name in buffers)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


# ------------------------------------------------------------------------------- weights that are all there


def rewrite(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("lm_head.weight"), r"1 missing \(lm_head\.weight\)"),
        (lambda state: state.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2)}), r"1 unexpected \(model\.la"),
        (lambda state: state.update({"lm_head.weight": torch.ones(2, 3)}), r"1 of another shape \(lm_head\.weight\)"),
    ],
)
def test_a_language_model_whose_weights_do_not_fit_is_refused(backbones, tmp_path, change, message):
    AutoModelForCausalLM.from_pretrained(backbones / "llama").save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(UserError, match=rf"language model {tmp_path}: .* LlamaForCausalLM; keys: {message}"):
        composed(backbones, tmp_path)


def llava(folder):
    """A whole LLaVA, as people take it for an encoder or a language model."""
    vision = CLIPVisionConfig(**tiny.VISION_MODELS["clip_vision_model"])
    text = LlamaConfig(vocab_size=tiny.VOCABULARY, **tiny.LANGUAGE_MODELS["llama"])
    model = AutoModelForImageTextToText.from_config(LlavaConfig(vision_config=vision, text_config=text))
    model.save_pretrained(folder)
    return model


def test_a_whole_llava_gives_a_vision_tower_and_a_language_model(backbones, tmp_path):
    whole = llava(tmp_path)
    tower = load_vision_model(tmp_path).state_dict()
    saved = whole.model.vision_tower.state_dict()
    assert tower.keys() == saved.keys()
    assert all(torch.equal(value, saved[key]) for key, value in tower.items())
    model = composed(backbones, tmp_path)
    assert type(model.language_model).__name__ == "LlamaForCausalLM"
    assert torch.equal(model.language_model.lm_head.weight.cpu(), whole.lm_head.weight)


def test_a_tower_whose_weights_have_other_names_is_refused(tmp_path):
    llava(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {key.replace("vision_tower", "eyes"): value for key, value in weights.items()}, tmp_path / "model.safetensors"
    )
    with pytest.raises(UserError, match=rf"vision encoder {tmp_path}: .* CLIPVisionModel; keys: \d+ missing \(emb"):
        load_vision_model(tmp_path)


def test_an_encoder_with_fewer_layers_than_weights_is_refused(backbones, tmp_path):
    load_vision_model(backbones / "vit").save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.num_hidden_layers = 2
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"keys: 16 unexpected \(layers\.2\."):
        load_vision_model(tmp_path)


@pytest.mark.parametrize("family", ["clip", "vit"])
def test_heads_and_text_towers_of_a_checkpoint_are_ignored(tmp_path, family):
    sizes = tiny.VISION_MODELS["vit"]
    settings = {"clip": {"vision_config": sizes, "text_config": {**sizes, "vocab_size": 50}}, "vit": sizes}[family]
    kind = {"clip": CLIPModel, "vit": ViTForImageClassification}[family]
    whole = kind(AutoConfig.for_model(family, **settings))
    whole.save_pretrained(tmp_path)
    model = load_vision_model(tmp_path)
    saved = {key.split(".", 1)[1]: value for key, value in whole.state_dict().items() if "." in key}
    weights = {key: value for key, value in model.state_dict().items() if "pooler" not in key}
    assert weights.keys() <= saved.keys()
    assert all(torch.equal(value, saved[key]) for key, value in weights.items())
