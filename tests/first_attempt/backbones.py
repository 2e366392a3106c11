"""Small random encoders of three families and a small random language model, saved like real ones."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests import tiny

_SIDE = 64
_ENCODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": _SIDE,
    "patch_size": 16,
}
#: The family of each encoder, with a class token or without.
ENCODERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "dinov2": "dinov2"}
_POSITIONS = 1024


def save_encoders(folder: Path) -> dict[str, Path]:
    """Writes the encoders with their image processors; returns the folder of each."""
    torch.manual_seed(0)
    folders = {}
    for name, family in ENCODERS.items():
        folders[name] = folder / name
        AutoModel.from_config(AutoConfig.for_model(family, **_ENCODER)).save_pretrained(folders[name])
        size = {"height": _SIDE, "width": _SIDE}
        CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folders[name])
    return folders


def save_language_model(folder: Path) -> Path:
    """Writes a language model of four layers with a byte-level tokenizer; returns its folder."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=tiny.VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=_POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = _POSITIONS
    tokenizer.save_pretrained(folder)
    return folder
