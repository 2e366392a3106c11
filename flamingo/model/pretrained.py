"""Frozen backbones: loaded by name or path, and recognised when a checkpoint only names them."""

import hashlib
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


def load_vision_model(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """A vision encoder; of a two-tower model (CLIP, SigLIP) the vision tower."""
    config = AutoConfig.from_pretrained(name_or_path, **_hub(kwargs))
    return AutoModel.from_pretrained(name_or_path, config=getattr(config, "vision_config", config), **kwargs)


def load_text_model(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """A causal language model without dropout: a frozen model has nothing to regularise."""
    config = without_dropout(AutoConfig.from_pretrained(name_or_path, **_hub(kwargs)))
    return AutoModelForCausalLM.from_pretrained(name_or_path, config=config, **kwargs)


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Set every dropout and layer-drop rate of ``config``, nested ones included, to 0."""
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            without_dropout(value)
        elif "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    return config


def fingerprint(model: nn.Module) -> str:
    """A digest of the weights: the same for the same values, whatever their names, device, or float32 or bfloat16."""
    digests = []
    for tensor in model.state_dict().values():
        sample = tensor.flatten()[:: max(1, tensor.numel() // 256)].to(torch.bfloat16).view(torch.int16)
        digests.append(hashlib.sha256(f"{tuple(tensor.shape)}{sample.tolist()}".encode()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]


def check_fingerprint(model: PreTrainedModel, origin: dict[str, str]) -> None:
    """Raise ValueError unless ``model`` has the weights that ``origin`` was recorded with."""
    if fingerprint(model) != origin["fingerprint"]:
        raise ValueError(
            f"{origin['name']} (revision {origin['revision']}) does not hold the weights that this checkpoint "
            "was trained with"
        )


def _hub(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "trust_remote_code")
    return {name: kwargs[name] for name in names if name in kwargs}
