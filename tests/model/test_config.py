"""Config values out of range and unknown keys are errors that name them."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.model.connectors import PerceiverConfig
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices


def test_it_survives_a_round_trip(tmp_path, gpt2):
    gpt2.config.save_pretrained(tmp_path)
    loaded = FlamingoConfig.from_pretrained(tmp_path)
    for part in ("vision_features", "connector", "fusion", "new_token_ids", "vision_width", "backbones"):
        assert getattr(loaded, part) == getattr(gpt2.config, part)
    assert type(loaded.text_config) is type(gpt2.config.text_config)
    assert loaded.get_text_config().vocab_size == 302
    assert loaded.text_config.vocab_size == 300


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fusion": {"every": 0}}, r"^fusion\.every .*0"),
        ({"fusion": {"every": 2, "offset": 2}}, r"^fusion\.offset .*"),
        ({"fusion": {"gate": "sigmoid"}}, r"^fusion\.gate .*'sigmoid'"),
        ({"fusion": {"norm": "batch"}}, r"^fusion\.norm .*'batch'"),
        ({"fusion": {"mlp_width": 0}}, r"^fusion\.mlp_width .*0"),
        ({"fusion": {"mlp_width": "7"}}, r"^fusion\.mlp_width .*'7'"),
        ({"fusion": {"dropout": 1}}, r"^fusion\.dropout .*1"),
        ({"connector": {"dropout": "0.1"}}, r"^connector\.dropout .*'0\.1'"),
        ({"fusion": {"rms_norm_eps": -1.0}}, r"^fusion\.rms_norm_eps .*-1\.0"),
        ({"connector": {"qk_norm_kind": "l2"}}, r"^connector\.qk_norm_kind .*'l2'"),
        ({"fusion": {"attend": "next"}}, r"^fusion\.attend .*'next'"),
        ({"fusion": {"evry": 2}}, r"fusion\.evry"),
        ({"connector": {"num_latents": 6.5}}, r"^connector\.num_latents .*6\.5"),
        ({"connector": {"kind": "resampler"}}, r"^connector\.kind .*perceiver, transformer, mlp.*'resampler'"),
        ({"fusion": {"kind": "adapter"}}, r"^fusion\.kind .*cross_attention.*'adapter'"),
        ({"connector": {"kind": "mlp", "num_frames": 2}}, r"connector\.num_frames.*depth"),
        ({"connector": {"num_frames": -1}}, r"^connector\.num_frames .*-1"),
        ({"connector": {"activation": "swoosh"}}, r"^connector\.activation .*'swoosh'"),
        ({"vision_features": {"class_token": True}}, r"^vision_features\.class_token .*True"),
        (
            {"vision_features": {"final_norm": "false"}},
            r"^vision_features\.final_norm .*'false'",
        ),
        ({"fusion": {"offset": "1"}}, r"^fusion\.offset .*'1'"),
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
        FlamingoForConditionalGeneration.from_pretrained(backbones / "gpt2").to(devices.DEVICE)


def test_a_live_models_configuration_is_copied_not_changed(backbones):
    """transformers would take its attention implementation away, and with it the causal mask."""
    language_model = AutoModelForCausalLM.from_pretrained(backbones / "llama").eval().to(devices.DEVICE)
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = language_model(ids).logits
    vision_model = AutoModel.from_pretrained(backbones / "clip_vision_model").to(devices.DEVICE)
    config = FlamingoConfig(vision_config=vision_model.config, text_config=language_model.config, **tiny.PARTS)
    model = FlamingoForConditionalGeneration(config, vision_model, language_model).eval().to(devices.DEVICE)
    assert torch.equal(language_model(ids).logits, expected)
    assert torch.equal(model(ids).logits, expected)


def test_a_placement_that_chooses_no_layer_is_refused(backbones):
    with pytest.raises(UserError, match=r"fusion\.every=9.*fusion\.offset=5.*4"):
        FlamingoForConditionalGeneration.from_vision_text_pretrained(
            backbones / "clip_vision_model", backbones / "gpt2", fusion={"every": 9, "offset": 5}
        )


def test_the_defaults_are_the_papers():
    assert PerceiverConfig() == PerceiverConfig("perceiver", 6, 64, 8, 64, 4, "relu2", 0, False)
    assert CrossAttentionConfig().gate == "scalar"
    assert CrossAttentionConfig().attend == "last"
    assert VisionFeaturesConfig() == VisionFeaturesConfig(-1, "drop", False)
