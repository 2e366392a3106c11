"""The features of an encoder: the config names them, and the encoder is checked."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, BlipConfig, BlipModel

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.vision import encode_patches, feature_width
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.model.vision_loading import load_vision_model, make_vision_model
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices

#: Tokens that are no patches.
TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 3, "vit": 1}
GRIDS = {"mobilenet_v2": 1280, "resnet": 24, "convnext": 24}


@pytest.fixture(params=TOKENS)
def transformer(request, backbones):
    return AutoModel.from_pretrained(backbones / request.param).eval().to(devices.DEVICE), TOKENS[request.param]


@torch.no_grad()
def test_patch_tokens_come_from_any_block_without_extra_tokens(transformer):
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
    encoder = AutoModel.from_pretrained(backbones / kind).eval().to(devices.DEVICE)
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
    assert model.config.vision_width == model.connector.latents.shape[1]


@pytest.mark.parametrize(
    ("kind", "class_token"), [("dinov2", "drop"), ("siglip_vision_model", "none"), ("resnet", "none")]
)
def test_a_class_token_left_to_the_model_is_found_and_recorded(backbones, kind, class_token, tmp_path):
    stated = tiny.flamingo(backbones, vision=kind, vision_features={"class_token": class_token})
    left_open = tiny.flamingo(backbones, vision=kind, vision_features={"class_token": "auto"})
    assert left_open.config.vision_features == stated.config.vision_features
    left_open.config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vision_features"]["class_token"] == class_token
    pixels = tiny.inputs()["pixel_values"][0]
    features = encode_patches(left_open.vision_model, pixels, VisionFeaturesConfig(class_token="auto"))
    assert torch.equal(features, encode_patches(stated.vision_model, pixels, stated.config.vision_features))


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("clip_vision_model", {"class_token": "none"}, "class_token is 'none', but CLIPVisionModel has 1 token"),
        (
            "siglip_vision_model",
            {"class_token": "drop"},
            "vision_features.class_token is 'drop', but SiglipVisionModel has none: set it to none",
        ),
        ("resnet", {"class_token": "keep"}, "vision_features.class_token is 'keep', but ResNetModel has none"),
        (
            "resnet",
            {"class_token": "none", "final_norm": True},
            "vision_features.final_norm is set, but .* ResNetModel",
        ),
        (
            "vit",
            {"class_token": "keep", "trailing_tokens": 18},
            "vision_features.trailing_tokens is 18, but ViTModel has 17",
        ),
        (
            "vit",
            {"class_token": "none", "trailing_tokens": 1},
            "vision_features.trailing_tokens is 1, so .*class_token",
        ),
        ("vit", {"trailing_tokens": -1}, "vision_features.trailing_tokens must be"),
        ("vit", {"hidden_state": 4}, "hidden_state is 4, but ViTModel has 4 hidden states"),
        ("mobilenet_v2", {"hidden_state": -40, "class_token": "none"}, "hidden_state is -40, but MobileNetV2Model has"),
    ],
)
def test_a_config_that_does_not_fit_the_encoder_is_refused(backbones, kind, config, message):
    with pytest.raises(UserError, match=message):
        tiny.flamingo(backbones, vision=kind, vision_features=config)


def make(model_type, **settings):
    return make_vision_model(AutoConfig.for_model(model_type, **settings)).eval().to(devices.DEVICE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["swin", "swinv2"])
def test_merged_patches_are_read_at_every_stage(kind):
    encoder = make(kind, embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=16, patch_size=2, window_size=4)
    pixels = torch.randn(2, 3, 16, 16)
    hidden = encoder(pixels, output_hidden_states=True).hidden_states
    for index, cells, width in ((0, 64, 8), (1, 16, 16), (2, 16, 16), (-1, 16, 16)):
        features = encode_patches(encoder, pixels, VisionFeaturesConfig(index, "none"))
        assert features.shape == (2, cells, width)
        assert torch.equal(features, hidden[index])
    with pytest.raises(UserError, match="class_token is 'drop', but Swin"):
        encode_patches(encoder, pixels, VisionFeaturesConfig())


@torch.no_grad()
def test_a_class_token_that_joins_at_the_last_stage_is_dropped():
    """PVT's last stage: 4 tokens of a grid of 2 x 2, after the class token."""
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    encoder = make("pvt", image_size=64, mlp_ratios=[1, 1, 1, 1], sequence_reduction_ratios=[1, 1, 1, 1], **sizes)
    pixels = torch.randn(2, 3, 64, 64)
    features = encode_patches(encoder, pixels, VisionFeaturesConfig())
    devices.assert_same(features, encoder(pixels).last_hidden_state[:, 1:])
    assert features.shape == (2, 4, 16)


@torch.no_grad()
def test_a_grid_whose_channels_come_last_is_read_row_by_row():
    """SAM: its blocks keep height x width x channels, its neck gives channels first."""
    sizes = {**tiny.VISION_MODELS["vit"], "output_channels": 12, "window_size": 2, "global_attn_indexes": [2]}
    encoder = make("sam_vision_model", **sizes)
    pixels = torch.randn(2, 3, 16, 16)
    hidden = encoder(pixels, output_hidden_states=True).hidden_states
    assert hidden[1].shape == (2, 4, 4, 24)
    for index in (0, 1, 2):
        features = encode_patches(encoder, pixels, VisionFeaturesConfig(index, "none"))
        assert torch.equal(features[:, 6], hidden[index][:, 1, 2])


@torch.no_grad()
def test_an_encoder_without_hidden_states_gives_its_feature_map():
    sizes = {"stem_channels": [3, 4, 8], "stage_in_channels": [8, 8, 16, 16], "stage_mid_channels": [4, 4, 4, 4]}
    encoder = make(
        "hgnet_v2",
        **sizes,
        stage_out_channels=[8, 16, 16, 24],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
    )
    pixels = torch.randn(2, 3, 64, 96)
    features = encode_patches(encoder, pixels, VisionFeaturesConfig(class_token="none"))
    assert features.shape == (2, 2 * 3, 24)
    torch.testing.assert_close(features[:, 4], encoder(pixels).feature_maps[0][:, :, 1, 1])


@torch.no_grad()
def test_pictures_in_one_sequence_are_told_apart():
    """Pixtral's blocks take all pictures of a batch as one sequence."""
    encoder = make("pixtral", **{**tiny.VISION_MODELS["vit"], "head_dim": 12})
    pixels = torch.randn(3, 3, 16, 16)
    features = encode_patches(encoder, pixels, VisionFeaturesConfig(class_token="none"))
    assert features.shape == (3, 16, 24)
    for picture, own in zip(pixels.split(1), features.split(1)):
        torch.testing.assert_close(encode_patches(encoder, picture, VisionFeaturesConfig(class_token="none")), own)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip_vision_model", "vit"])
def test_position_embeddings_are_interpolated_for_other_sizes(backbones, kind):
    encoder = AutoModel.from_pretrained(backbones / kind).eval().to(devices.DEVICE)
    pixels = torch.randn(2, 3, 24, 16)
    expected = encoder(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-1]
    features = encode_patches(encoder, pixels, VisionFeaturesConfig(class_token="keep" if TOKENS[kind] else "none"))
    assert torch.equal(features, expected)
    assert expected.shape[1] == TOKENS[kind] + 6 * 4


def test_a_norm_that_does_nothing_is_no_final_norm():
    """BEiT with mean pooling has its norm in the pooler, and an identity in its place."""
    encoder = make("beit", **tiny.VISION_MODELS["vit"], use_mean_pooling=True)
    with pytest.raises(UserError, match=r"vision_features\.final_norm is set, but BeitModel has no"):
        feature_width(encoder, VisionFeaturesConfig(final_norm=True))
    assert feature_width(encoder, VisionFeaturesConfig()) == 24


def test_a_tower_without_an_automatic_class_is_loaded_and_saved(tmp_path, backbones):
    vision = {**tiny.VISION_MODELS["vit"], "hidden_size": 32}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    blip = BlipModel(BlipConfig(vision_config=vision, text_config=text)).eval().to(devices.DEVICE)
    blip.save_pretrained(tmp_path / "blip")
    assert type(load_vision_model(tmp_path / "blip")).__name__ == "BlipVisionModel"
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        tmp_path / "blip", backbones / "gpt2", new_token_ids=tiny.NEW_TOKEN_IDS, **tiny.PARTS
    )
    pixels = torch.randn(1, 3, 16, 16)
    expected = blip.vision_model(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    for include_backbones in (True, False):
        model.save_pretrained(tmp_path / "flamingo", include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo").to(devices.DEVICE)
        features = encode_patches(loaded.vision_model, pixels, loaded.config.vision_features)
        assert torch.equal(features, expected)


def test_the_vision_tower_of_a_two_tower_model_is_taken(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config=tiny.VISION_MODELS["clip_vision_model"], text_config=text)
    clip = CLIPModel(config).eval().to(devices.DEVICE)
    clip.save_pretrained(tmp_path)
    encoder = load_vision_model(tmp_path).to(devices.DEVICE)
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.equal(encoder(pixels).last_hidden_state, clip.vision_model(pixels).last_hidden_state)
