"""Config values out of range, and keys that are none, are named."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.model.config import GatedConfig, ResamplerConfig, VisionFeaturesConfig
from flamingo.utils.errors import UserError
from tests import tiny


def test_it_survives_a_round_trip(tmp_path, gpt2):
    gpt2.config.save_pretrained(tmp_path)
    loaded = FlamingoConfig.from_pretrained(tmp_path)
    for part in ("vision_features", "resampler", "gated", "new_token_ids", "vision_width", "backbones"):
        assert getattr(loaded, part) == getattr(gpt2.config, part)
    assert type(loaded.text_config) is type(gpt2.config.text_config)
    assert loaded.get_text_config().vocab_size == 302
    assert loaded.text_config.vocab_size == 300


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gated": {"every": 0}}, r"^gated\.every .*0"),
        ({"gated": {"every": 2, "offset": 2}}, r"^gated\.offset .*"),
        ({"gated": {"gate": "sigmoid"}}, r"^gated\.gate .*'sigmoid'"),
        ({"gated": {"norm": "batch"}}, r"^gated\.norm .*'batch'"),
        ({"gated": {"feedforward_width": 0}}, r"^gated\.feedforward_width .*0"),
        ({"gated": {"feedforward_width": "7"}}, r"^gated\.feedforward_width .*'7'"),
        ({"gated": {"dropout": 1}}, r"^gated\.dropout .*1"),
        ({"resampler": {"dropout": "0.1"}}, r"^resampler\.dropout .*'0\.1'"),
        ({"gated": {"rms_eps": -1.0}}, r"^gated\.rms_eps .*-1\.0"),
        ({"resampler": {"qk_norm_kind": "l2"}}, r"^resampler\.qk_norm_kind .*'l2'"),
        ({"gated": {"attend": "next"}}, r"^gated\.attend .*'next'"),
        ({"gated": {"evry": 2}}, "'evry'"),
        ({"resampler": {"latents": 6.5}}, r"^resampler\.latents .*6\.5"),
        ({"resampler": {"frames": -1}}, r"^resampler\.frames .*-1"),
        ({"resampler": {"activation": "swoosh"}}, r"^resampler\.activation .*'swoosh'"),
        ({"vision_features": {"class_token": True}}, r"^vision_features\.class_token .*True"),
        (
            {"vision_features": {"final_norm": "false"}},
            r"^vision_features\.final_norm .*'false'",
        ),
        ({"gated": {"offset": "1"}}, r"^gated\.offset .*'1'"),
        ({"text_config": {"vocab_size": 5}}, "text_config has no model_type"),
        ({"new_token_ids": "5"}, r"new_token_ids.*'5'"),
        ({"new_token_ids": [5, 5]}, r"new_token_ids.*\[5, 5\]"),
    ],
    ids=str,
)
def test_values_out_of_range_are_named(config, message):
    with pytest.raises(UserError, match=message):
        FlamingoConfig(**config)


def test_a_key_that_is_none_is_not_kept_silently(backbones):
    with pytest.raises(UserError, match=r"FlamingoConfig.*'gatd'"):
        FlamingoForConditionalGeneration.from_vision_text_pretrained(
            backbones / "clip_vision_model", backbones / "gpt2", gatd={"every": 2}
        )


def test_the_configuration_of_another_model_is_refused(backbones):
    with pytest.raises(UserError, match=r"gpt2.*flamingo"):
        FlamingoForConditionalGeneration.from_pretrained(backbones / "gpt2")


def test_a_live_models_configuration_is_copied_not_changed(backbones):
    """transformers would take its attention implementation away, and with it the causal mask."""
    language_model = AutoModelForCausalLM.from_pretrained(backbones / "llama").eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = language_model(ids).logits
    vision_model = AutoModel.from_pretrained(backbones / "clip_vision_model")
    config = FlamingoConfig(vision_config=vision_model.config, text_config=language_model.config, **tiny.PARTS)
    model = FlamingoForConditionalGeneration(config, vision_model, language_model).eval()
    assert torch.equal(language_model(ids).logits, expected)
    assert torch.equal(model(ids).logits, expected)


def test_a_placement_that_chooses_no_layer_is_refused(backbones):
    with pytest.raises(UserError, match=r"gated\.every=9.*gated\.offset=5.*4"):
        FlamingoForConditionalGeneration.from_vision_text_pretrained(
            backbones / "clip_vision_model", backbones / "gpt2", gated={"every": 9, "offset": 5}
        )


def test_the_defaults_are_the_papers():
    assert ResamplerConfig() == ResamplerConfig(6, 64, 8, 64, 4, "relu2", 0, False)
    assert GatedConfig().gate == "scalar"
    assert GatedConfig().attend == "last"
    assert VisionFeaturesConfig() == VisionFeaturesConfig(-1, "drop", False)
