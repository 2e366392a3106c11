"""Tiny configs of image encoders, and random weights that behave like trained ones."""

from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from flamingo.model.vision import image_size, num_channels
from tests import tiny
from tests.compatibility.shrinking import shrunk

_WIDTH, _LAYERS, _HEADS, _FEEDFORWARD = 32, 3, 4, 48
#: The value of every field of these names.
SIZES: dict[str, int] = {
    "vocab_size": tiny.VOCABULARY,
    "image_size": 224,
    **dict.fromkeys(("pad_token_id", "bos_token_id"), 0),
    "eos_token_id": 1,
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "hidden_dim", "embedding_dim", "width"), _WIDTH),
    **dict.fromkeys(("vision_hidden_size", "neck_hidden_size", "fpn_hidden_size"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "n_layers"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "decoder_num_hidden_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "n_heads"), _HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), _HEADS),
    "num_key_value_heads": _HEADS,
    **dict.fromkeys(("head_dim", "attention_head_dim"), _WIDTH // _HEADS),
    **dict.fromkeys(("intermediate_size", "mlp_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), _FEEDFORWARD),
}
#: Lists of these names have one number per stage: its blocks, which are limited, and its share of the width.
_DEPTHS = ("depths", "num_block_repeats", "stage_num_blocks", "blocks_per_stage")
_WIDTHS = ("hidden_sizes", "embed_dims", "stage_mid_channels", "embed_dim_per_stage")
_MOST_BLOCKS, _PART = 2, 4
#: A backbone of transformers' own instead of timm's.
_RESNET = {
    "use_timm_backbone": False,
    "backbone": None,
    "backbone_config": {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]},
}
_HIERA = {
    "hidden_size": 24,
    "num_attention_heads": 1,
    "embed_dim_per_stage": [24, 48, 96, 192],
    "blocks_per_stage": [1, 1, 2, 1],
    "global_attention_blocks": [3],
    "image_size": [224, 224],
}
_SAM2 = {
    "backbone_config": {"model_type": "sam2_hiera_det_model", **_HIERA},
    "backbone_channel_list": [192, 96, 48, 24],
    "backbone_feature_sizes": [[56, 56], [28, 28], [14, 14]],
    "fpn_hidden_size": 32,
}
_SAM = {"global_attn_indexes": [2], "downsample_channels": [_WIDTH, _WIDTH]}
_DINO = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
_EFFICIENT_NET = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224}
#: Fields that shrinking by name gets wrong.
SPECIAL: dict[str, dict[str, Any]] = {
    "align": {"vision_config": {"model_type": "align_vision_model", **_EFFICIENT_NET}},
    "align_vision_model": _EFFICIENT_NET,
    "bit": {"hidden_sizes": [128, 128, 256, 256]},
    "bridgetower_vision_model": {"hidden_size": 64, "image_size": 224},
    "conditional_detr": _RESNET,
    "dab-detr": _RESNET,
    "deformable_detr": _RESNET,
    "depth_pro": {
        "patch_size": 32,
        "image_model_config": _DINO,
        "patch_model_config": _DINO,
        "fov_model_config": _DINO,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [32, 32],
        "scaled_images_feature_dims": [32, 32, 32],
        "fusion_hidden_size": 32,
    },
    "detr": _RESNET,
    "dots3_note_vision_encoder": {"adapter_in_dim": _WIDTH},
    "deepseek_ocr2_vision": {"sam_config": _SAM},
    "edgetam_video": {"vision_config": _SAM2},
    "efficientnet": _EFFICIENT_NET,
    "granite_docling_vision": {"image_size": 256, "deepstack_visual_indexes": [0, 1]},
    "levit": {"hidden_sizes": [128, 256, 384]},
    "llama4": {"vision_config": {"intermediate_size": 128}},
    "llama4_vision_model": {"intermediate_size": 128},
    "lw_detr_vit": {"image_size": 256, "window_block_indices": [0, 2]},
    "mobilevit": {"image_size": 256},
    "mobilevitv2": {"image_size": 256, "n_attn_blocks": [1, 1, 1]},
    "neomme": {"head_dim": 16},
    "omdet-turbo": _RESNET,
    "regnet": {"hidden_sizes": [64, 128, 192, 256]},
    "sam2_hiera_det_model": _HIERA,
    "sam2_video": {"vision_config": _SAM2},
    "sam2_vision_model": _SAM2,
    "table-transformer": _RESNET,
    "timm_backbone": {"backbone": "resnet10t"},
    "textnet": {"image_size": [224, 224]},
    "unlimited_ocr_vision": {"sam_config": _SAM},
    "yolos": {"image_size": [128, 192]},
}
#: Tried as they are: detectors on a backbone, and widths that depend on one another.
AS_THEY_ARE = (
    *(
        "d_fine",
        "deimv2",
        "donut-swin",
        "edgetam_vision_model",
        "grounding-dino",
        "lw_detr",
        "mask2former",
        "maskformer",
        "maskformer-swin",
    ),
    *("mgp-str", "mm-grounding-dino", "oneformer", "pp_doclayout_v3", "pp_doclayout_v4", "pp_ocrv6_small_det"),
    *("rf_detr", "rt_detr", "rt_detr_v2", "swin", "swin2sr", "swinv2", "textnet", "uvdoc"),
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def tiny_encoder_config(model_type: str) -> PreTrainedConfig:
    if model_type in AS_THEY_ARE:
        return AutoConfig.for_model(model_type, **SPECIAL.get(model_type, {}))
    config = AutoConfig.for_model(model_type)
    lists: dict[str, Any] = {}
    for key, value in vars(config).items():
        if isinstance(value, list | tuple) and all(type(number) is int for number in value):
            if key in _DEPTHS:
                lists[key] = [min(number, _MOST_BLOCKS) for number in value]
            elif key in _WIDTHS:
                lists[key] = [number // _PART for number in value]
            elif key in SIZES:
                lists[key] = list(value)
    settings = merged(shrunk(config, SIZES), {**lists, **SPECIAL.get(model_type, {})})
    return AutoConfig.for_model(model_type, **settings)


def merged(settings: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    result = dict(settings)
    for key, value in special.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def settle(model: PreTrainedModel) -> None:
    """Give random convolutions and batch norms the scale that trained ones have, or features would vanish."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif hasattr(module, "attention_biases"):  # LeViT's attention, which would be uniform, becomes local
            side = round(module.attention_biases.shape[1] ** 0.5)
            offsets = torch.arange(module.attention_biases.shape[1])
            module.attention_biases.data[:] = -(offsets // side + offsets % side).float()
        elif isinstance(module, BATCH_NORMS):
            module.momentum = None  # the mean of all batches
            nn.init.ones_(module.weight)
    takes_videos = hasattr(model.config, "num_frames")
    if takes_videos or further_inputs(model) or not any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        return
    model.train()
    for _ in range(2):
        model(torch.randn(4, num_channels(model.config), *image_size(model.config)))


def further_inputs(model: PreTrainedModel) -> bool:
    parameters = list(signature(model.forward).parameters.values())[1:]
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
