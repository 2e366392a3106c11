"""The probe of an encoder: encoders that pass, encoders that fail, and no side effects."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from flamingo.model.vision import encode_patches, feature_width, image_size
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.model.vision_loading import make_vision_model
from flamingo.model.vision_probe import check_encoder
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices

_NO_TOKENS = VisionFeaturesConfig(class_token="none")


def check(encoder, config=None, size=None):
    check_encoder(encoder, config or VisionFeaturesConfig(), size or image_size(encoder.config), torch.Generator())


def make(model_type, **settings):
    return make_vision_model(AutoConfig.for_model(model_type, **settings)).eval().to(devices.DEVICE)


def vit(kind="vit", **settings):
    return make(kind, **{**tiny.VISION_MODELS["vit"], **settings})


def altering(module, function):
    """Let a function change what a module returns."""
    module.register_forward_hook(lambda module, args, output: function(output))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", tiny.VISION_MODELS)
def test_every_tiny_encoder_passes(backbones, kind, dtype):
    encoder = AutoModel.from_pretrained(backbones / kind, dtype=dtype).to(devices.DEVICE)
    has_token = kind in ("clip_vision_model", "dinov2", "dinov2_with_registers", "vit")
    for hidden_state in (-1, -2):
        check(encoder, VisionFeaturesConfig(hidden_state, "drop" if has_token else "none"))


def test_detection_tokens_after_patches_are_named_then_dropped():
    encoder = vit("yolos", image_size=[16, 24], num_detection_tokens=5)
    with pytest.raises(UserError, match=r"vision_features\.trailing_tokens is 0, but 5 .*set it to 5"):
        check(encoder)
    with pytest.raises(UserError, match=r"vision_features\.trailing_tokens is 4, but 5 .*set it to 5"):
        check(encoder, VisionFeaturesConfig(trailing_tokens=4))
    config = VisionFeaturesConfig(trailing_tokens=5)
    check(encoder, config)
    pixels = torch.randn(2, 3, 16, 24)
    hidden = encoder(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(encode_patches(encoder, pixels, config), hidden[:, 1 : 1 + 4 * 6])


def test_a_class_token_after_patches_is_named_then_dropped():
    sizes = {
        **tiny.VISION_MODELS["vit"],
        "intermediate_size": 96,
        "projector_input_dim": 24,
        "projector_output_dim": 24,
    }
    encoder = make("llama4_vision_model", **sizes)
    with pytest.raises(UserError, match=r"vision_features\.trailing_tokens is 0, but 1 .*set it to 1"):
        check(encoder)
    config = VisionFeaturesConfig(hidden_state=2, trailing_tokens=1)
    check(encoder, config)
    states = []
    encoder.model.layers[1].register_forward_hook(lambda module, args, output: states.append(output))
    features = encode_patches(encoder, torch.randn(2, 3, 16, 16), config)
    assert torch.equal(features, (states[0][0] if isinstance(states[0], tuple) else states[0])[:, :16])


def test_patches_that_begin_in_the_one_above_are_patches():
    """ViTPose's patches of 8 pixels begin two pixels early, and the first row's see the border."""
    encoder = make("vitpose_backbone", **{**tiny.VISION_MODELS["vit"], "image_size": [32, 32], "patch_size": [8, 8]})
    assert encoder.embeddings.patch_embeddings.projection.padding != (0, 0)
    check(encoder, _NO_TOKENS)


def test_patches_masked_at_random_are_refused():
    encoder = vit("vit_mae", decoder_num_hidden_layers=1, decoder_hidden_size=8, decoder_num_attention_heads=2)
    with pytest.raises(UserError, match=r"ViTMAEModel gives .* at random"):
        check(encoder)


def test_pictures_that_see_one_another_are_refused():
    encoder = vit()
    altering(encoder.layers[1], lambda states: states + states.mean(dim=0, keepdim=True))
    with pytest.raises(UserError, match="ViTModel gives two pictures in a batch other features"):
        check(encoder)


@pytest.mark.parametrize(
    "rearrange",
    [
        lambda patches: patches.flip(1),
        # Windows of 2 x 2, row by row: the last patch stays the last.
        lambda patches: patches.view(-1, 2, 2, 2, 2, 24).transpose(2, 3).flatten(1, 4),
        lambda patches: patches.view(-1, 4, 4, 24).transpose(1, 2).flatten(1, 2),
        lambda patches: patches + patches.mean(dim=1, keepdim=True),
    ],
    ids=["reversed", "windows", "columns first", "mixed"],
)
def test_patches_of_a_transformer_in_other_places_are_refused(rearrange):
    encoder = vit("siglip_vision_model")
    check(encoder, _NO_TOKENS)
    altering(encoder.embeddings, rearrange)
    with pytest.raises(UserError, match="Siglip"):
        check(encoder, _NO_TOKENS)


@pytest.mark.parametrize(
    "rearrange",
    [lambda grid: grid.flip(2), lambda grid: grid.flip(3), lambda grid: grid.mT, lambda grid: grid.roll(2, dims=3)],
    ids=["upside down", "mirrored", "columns first", "moved"],
)
@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_a_grid_in_another_order_is_refused(kind, rearrange):
    encoder = make(kind, **{**tiny.VISION_MODELS[kind], "image_size": 224})
    check(encoder, _NO_TOKENS)
    altering(encoder.encoder.stages[-1], rearrange)
    with pytest.raises(UserError, match=f"{type(encoder).__name__} has no grid of patches"):
        check(encoder, _NO_TOKENS)


def test_a_number_of_tokens_that_is_no_grid_is_refused():
    """Queries of a detector look like 5 x 5 patches and more."""
    settings = {"num_queries": 30, "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    backbone = AutoConfig.for_model("resnet", **tiny.VISION_MODELS["resnet"], out_features=["stage2"])
    encoder = make("detr", **settings, **layers, backbone_config=backbone, use_timm_backbone=False)
    with pytest.raises(UserError, match="DetrModel has no grid of patches"):
        check(encoder)


def test_patches_that_are_grouped_are_refused():
    """GroupViT ends with 8 groups, which are no 2 x 2 patches and four others."""
    groups = {"num_group_tokens": [64, 8, 0], "num_output_groups": [64, 8, 8], "depths": [1, 1, 1]}
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "image_size": 48, "patch_size": 4}
    encoder = make("groupvit_vision_model", **sizes, **groups, num_hidden_layers=3)
    for hidden_state in (-1, 1, 2):
        for class_token in ("drop", "none"):
            with pytest.raises(UserError, match=r"GroupViTVisionModel|class_token"):
                check(encoder, VisionFeaturesConfig(hidden_state, class_token))


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        (
            "siglip2_vision_model",
            {"num_patches": 16},
            "needs pixel_attention_mask, spatial_shapes",
        ),
        ("videomae", {"num_frames": 2}, "videos of 2 frames"),
        ("bert", {"intermediate_size": 16}, "takes input_ids, not pixel_values"),
        ("qwen2_5_vl_vision", {}, "needs grid_thw"),
    ],
)
def test_an_encoder_of_other_inputs_is_refused_by_its_interface(model_type, settings, message):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_heads": 2, "depth": 1}
    encoder = make(model_type, **sizes, **settings)
    for run in (check, lambda encoder: feature_width(encoder, VisionFeaturesConfig())):
        with pytest.raises(UserError, match=f"{type(encoder).__name__} .*{message}"):
            run(encoder)


def test_image_sizes_that_the_encoder_does_not_take_are_refused():
    encoder = vit("sam_vision_model", window_size=0, global_attn_indexes=[0, 1, 2], output_channels=16)
    check(encoder, _NO_TOKENS)
    with pytest.raises(UserError, match="SamVisionModel cannot encode pictures of 24 x 32 pixels"):
        check(encoder, _NO_TOKENS, (24, 32))


def test_switched_off_nothing_changes():
    """Batch norms of an encoder in training mode, modes, gradients and global generators stay as they were."""
    encoder = make("resnet", **tiny.VISION_MODELS["resnet"]).train()
    buffers = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    state = torch.get_rng_state()
    check(encoder, _NO_TOKENS, (64, 64))
    assert feature_width(encoder, _NO_TOKENS) == 24
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in encoder.named_buffers())
    assert all(module.training for module in encoder.modules())
