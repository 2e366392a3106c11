"""Every image encoder of transformers, tiny and random: composed, trained a step, run, saved and loaded."""

import re
import tempfile
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.encoders import make_vision_model, vision_config
from flamingo.model.vision import encode_tokens, image_size, num_channels
from flamingo.utils.errors import UserError
from tests import tiny
from tests.compatibility.shrinking import shrunk
from tests.compatibility.sweep import Outcome, not_built

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
#: Lists of these names have a number for every stage: so many blocks at most, and a part of the width.
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
#: Saved under the current names of weights: saved under the original ones transformers 5.23 renames the vision tower's.
_CURRENT_NAMES = ("altclip",)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
#: Models with fields of these names that see no pictures.
_NO_PICTURES = ("audio-spectrogram-transformer", "blt")

#: Which architecture a sentence speaks of.
REASONS = (
    ("takes videos|takes pixel_values_videos|takes inference_session", "video"),
    ("masks patches at random", "random masking"),
    ("besides pictures|not pixel_values|given nothing else", "further inputs"),
    ("no grid of p|no patch features|which is no list of tokens", "no patch grid"),
    ("transformers has no vision encoder", "part of another model"),
)
#: What their sentences do not tell.
REASON_OF = {
    "ernie4_5_vl_moe_vision": "further inputs",
    "lw_detr": "no patch grid",
    "rf_detr": "no patch grid",
    "sam3_tracker_video": "video",
    "timm_backbone": "weights are found by timm's names only",
}


@cache
def classes() -> dict[str, str]:
    """The class of every model type that encodes pictures, or is the vision tower of one that does."""
    listed = {
        *modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    found = set(listed)
    for model_type in CONFIG_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:  # a config without defaults
            continue
        tower = getattr(config, "vision_config", getattr(config, "image_config", None))
        if isinstance(tower, PreTrainedConfig):
            found.add(tower.model_type)
        fields = ("image_size", "num_channels", "patch_size", "backbone_config")
        if model_type in modeling_auto.MODEL_MAPPING_NAMES and any(hasattr(config, field) for field in fields):
            found.add(model_type)
    names = {**modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES, **modeling_auto.MODEL_MAPPING_NAMES}
    return {model_type: str(names.get(model_type, "")) for model_type in sorted(found - {*_NO_PICTURES})}


def trial(model_type: str) -> Outcome:
    """Compose a tiny random model of this type and try all that a Flamingo does with it."""
    name = classes().get(model_type, "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            name = save_encoder(model_type, folder / "vision")
        except UserError as error:
            return refused(model_type, name, error)
        except Exception as error:
            return not_built(model_type, name, error)
        save_language_model(folder / "language")
        try:
            model, settings = composed(folder)
        except UserError as error:
            return refused(model_type, name, error)
        name = type(model.vision_model).__name__
        check_training(model)
        check_generation(model.eval())
        check_saving(model, folder)
    return Outcome(model_type, name, "works", sentence=described(model, settings))


def described(model: FlamingoForConditionalGeneration, settings: dict[str, Any]) -> str:
    """The settings that the encoder needs, and what they give."""
    config = model.vision_model.config
    picture = torch.zeros(1, num_channels(config), *image_size(config))
    layout = encode_tokens(model.vision_model, picture, model.config.vision_features)[1]
    grid = f"{layout.rows} x {layout.columns} patches of a picture of {picture.shape[-2]} x {picture.shape[-1]}"
    needed = [f"vision_features.{key}={value}" for key, value in settings.items()]
    return ", ".join([grid, *needed])


def refused(model_type: str, name: str, error: UserError) -> Outcome:
    found = [reason for pattern, reason in REASONS if re.search(pattern, str(error))]
    reason = REASON_OF.get(model_type) or (found[0] if found else "")
    return Outcome(model_type, name, "refused", reason, str(error))


def save_encoder(model_type: str, folder: Path) -> str:
    """Save a tiny random encoder, or the whole model of which it is a part, and return the class's name."""
    config = tiny_encoder_config(model_type)
    whole = vision_config(config) is not config
    model = make_whole_model(config) if whole else make_vision_model(config)
    tower = type(vision_config(config))
    settle(next(m for m in model.modules() if isinstance(m, PreTrainedModel) and isinstance(m.config, tower)))
    model.save_pretrained(folder, save_original_format=model_type not in _CURRENT_NAMES)
    return type(model).__name__


def make_whole_model(config: PreTrainedConfig) -> PreTrainedModel:
    for loader in (AutoModel, AutoModelForImageTextToText, AutoModelForImageClassification):
        if type(config) in loader._model_mapping:
            return loader.from_config(config)
    raise ValueError(f"no class for a {config.model_type}")


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
    if not any(isinstance(module, BATCH_NORMS) for module in model.modules()) or further_inputs(model):
        return
    model.train()
    for _ in range(2):
        model(torch.randn(4, num_channels(model.config), *image_size(model.config)))


def further_inputs(model: PreTrainedModel) -> bool:
    parameters = list(signature(model.forward).parameters.values())[1:]
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def save_language_model(folder: Path) -> None:
    sizes = {**tiny.LANGUAGE_MODELS["gpt2"], "bos_token_id": 0, "eos_token_id": 1}
    config = GPT2Config(vocab_size=tiny.VOCABULARY, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def composed(folder: Path) -> tuple[FlamingoForConditionalGeneration, dict[str, Any]]:
    """A Flamingo with the settings that its errors ask for, one after another."""
    settings: dict[str, Any] = {}
    while True:
        try:
            model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
                folder / "vision",
                folder / "language",
                new_token_ids=tiny.NEW_TOKEN_IDS,
                vision_features=settings,
                **tiny.PARTS,
            )
        except UserError as error:
            asked = re.search(r"vision_features\.(\w+) is .*: set it to (\S+)", str(error))
            if asked is None or asked[1] in settings:
                raise
            settings[asked[1]] = int(asked[2]) if re.fullmatch(r"-?\d+", asked[2]) else asked[2]
        else:
            tiny.open_gates(model, 0.7)
            return model, settings


def inputs(model: FlamingoForConditionalGeneration) -> dict[str, torch.Tensor]:
    config = model.vision_model.config
    shape = (2, 3, num_channels(config), *image_size(config))
    return {**tiny.inputs(), "pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(2))}


def check_training(model: FlamingoForConditionalGeneration) -> None:
    """Every parameter that trains gets a gradient, and no other."""
    batch = inputs(model)
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without, f"no gradient in {without}"
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not frozen, f"a gradient in {frozen}"
    model.zero_grad()


def check_generation(model: FlamingoForConditionalGeneration) -> None:
    """The pictures matter, and the cache does not."""
    batch = inputs(model)
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.equal(model(**batch).logits, model(**other).logits), "other pictures give the same logits"
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached, uncached = (model.generate(**batch, **settings, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, uncached), f"cached {cached[:, 14:].tolist()}, not {uncached[:, 14:].tolist()}"


def check_saving(model: FlamingoForConditionalGeneration, folder: Path) -> None:
    """A loaded checkpoint gives the same logits, with its backbones and without."""
    expected = model(**inputs(model)).logits
    for include_backbones in (True, False):
        model.save_pretrained(folder / "flamingo", include_backbones=include_backbones)
        loaded = FlamingoForConditionalGeneration.from_pretrained(folder / "flamingo")
        assert torch.equal(loaded(**inputs(model)).logits, expected), "loaded, it gives other logits"


CLASSES = classes()
