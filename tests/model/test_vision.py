"""Which features of which encoder: said by the config, checked against the encoder."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from flamingo.model.configuration import VisionFeaturesConfig
from flamingo.model.pretrained import load_vision_model
from flamingo.model.vision import encode_patches, feature_width
from tests import tiny

#: Tokens that are no patches.
TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 3, "vit": 1}
GRIDS = {"mobilenet_v2": 1280, "resnet": 24, "convnext": 24}


@pytest.fixture(params=TOKENS)
def transformer(request, backbones):
    return AutoModel.from_pretrained(backbones / request.param).eval(), TOKENS[request.param]


@torch.no_grad()
def test_patch_tokens_of_any_block_with_and_without_what_is_no_patch(transformer):
    encoder, others = transformer
    pixels = torch.randn(2, 3, 16, 16)
    hidden = encoder(pixels, output_hidden_states=True).hidden_states  # before the final norm for these encoders
    for index in (-1, -2, 0, 2, 3):
        for class_token in ("keep", "drop") if others else ("none",):
            features = encode_patches(encoder, pixels, VisionFeaturesConfig(index, class_token))
            expected = hidden[index][:, others if class_token == "drop" else 0 :]
            assert features.shape[1] == 16 + (others if class_token == "keep" else 0)
            assert torch.equal(features, expected)


@torch.no_grad()
def test_the_final_norm_is_applied_on_request_only(transformer):
    encoder, others = transformer
    pixels = torch.randn(2, 3, 16, 16)
    norm = getattr(encoder, "post_layernorm", None) or encoder.layernorm
    norm.weight.data.normal_()
    kind = "keep" if others else "none"
    before, after = (encode_patches(encoder, pixels, VisionFeaturesConfig(-1, kind, norm)) for norm in (False, True))
    assert torch.equal(after, norm(before))
    assert not torch.allclose(after, before)
    last = encoder(pixels).last_hidden_state
    # The trap: CLIP gives its last hidden state before the norm, the others after it.
    assert torch.equal(last, before if "CLIP" in type(encoder).__name__ else after)


@torch.no_grad()
@pytest.mark.parametrize("kind", GRIDS)
def test_a_convolutional_grid_is_read_row_by_row(backbones, kind):
    encoder = AutoModel.from_pretrained(backbones / kind).eval()
    pixels = torch.randn(2, 3, 64, 64)
    width = GRIDS[kind]
    features = encode_patches(encoder, pixels, VisionFeaturesConfig(class_token="none"))
    grid = encoder(pixels).last_hidden_state
    assert features.shape == (2, grid.shape[-1] * grid.shape[-2], width)
    torch.testing.assert_close(features[:, 1], grid[:, :, 0, 1])
    earlier = encode_patches(encoder, pixels, VisionFeaturesConfig(-2, "none"))
    expected = encoder(pixels, output_hidden_states=True).hidden_states[-2].flatten(2).transpose(1, 2)
    torch.testing.assert_close(earlier, expected)
    assert feature_width(encoder, VisionFeaturesConfig(class_token="none")) == width


@pytest.mark.parametrize("kind", [*TOKENS, *GRIDS])
def test_every_encoder_composes(backbones, kind):
    model = tiny.flamingo(backbones, vision=kind)
    size = 64 if kind in GRIDS else 16
    inputs = {**tiny.inputs(), "pixel_values": torch.randn(2, 3, 3, size, size)}
    changed = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert (model(**inputs).logits - model(**changed).logits).abs().max() > 1e-3
    assert model.config.vision_width == model.resampler.latents.shape[1]


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("clip_vision_model", {"class_token": "none"}, "class_token is 'none', but CLIPVisionModel has 1 token"),
        (
            "siglip_vision_model",
            {"class_token": "drop"},
            "class_token is 'drop', but SiglipVisionModel has none: say none",
        ),
        ("resnet", {"class_token": "keep"}, "class_token is 'keep', but ResNetModel has none: say none"),
        ("resnet", {"class_token": "none", "final_norm": True}, "final_norm is set, but ResNetModel is convolutional"),
        ("vit", {"hidden_state": 4}, "hidden_state is 4, but ViTModel has 4 hidden states"),
        ("mobilenet_v2", {"hidden_state": -40, "class_token": "none"}, "hidden_state is -40, but MobileNetV2Model has"),
    ],
)
def test_a_config_that_does_not_fit_the_encoder_is_refused_at_once(backbones, kind, config, message):
    with pytest.raises(ValueError, match=message):
        tiny.flamingo(backbones, vision=kind, vision_features=config)


def test_encoders_whose_tokens_are_not_patches_are_refused():
    settings = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 16, "patch_size": 2}
    swin = AutoModel.from_config(AutoConfig.for_model("swin", **settings, window_size=4)).eval()
    with pytest.raises(ValueError, match="SwinModel has 64 patches, but merges them to 16 tokens"):
        feature_width(swin, VisionFeaturesConfig())


def test_the_vision_tower_of_a_two_tower_model_is_taken(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(vision_config=tiny.VISION_MODELS["clip_vision_model"], text_config=text)).eval()
    clip.save_pretrained(tmp_path)
    encoder = load_vision_model(tmp_path)
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.equal(encoder(pixels).last_hidden_state, clip.vision_model(pixels).last_hidden_state)
