"""Tiny configs of any model of transformers, made from the default ones by the names of their fields."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


def tiny_config(model_type: str, sizes: dict[str, int], special: dict[str, Any]) -> PreTrainedConfig:
    """A config of ``model_type`` whose fields have the values in ``sizes``, and those in ``special`` first of all."""
    settings = shrunk(AutoConfig.for_model(model_type), sizes)
    return AutoConfig.for_model(model_type, **{**settings, **special})


def shrunk(config: PreTrainedConfig, sizes: dict[str, int]) -> dict[str, Any]:
    """The settings that make a tiny config like ``config``; nested configs are shrunk alike."""
    settings: dict[str, Any] = {}
    depth = getattr(config, "num_hidden_layers", None)
    for key, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            settings[key] = {"model_type": value.model_type, **shrunk(value, sizes)}
        elif key in sizes and value is not None:
            settings[key] = sizes[key]
        elif isinstance(value, list) and len(value) == depth and all(isinstance(kind, str) for kind in value):
            settings[key] = _every_kind(value, sizes["num_hidden_layers"])
    return settings


def _every_kind(layers: list[str], depth: int) -> list[str]:
    """A list of ``depth`` layers in which every kind occurs."""
    kinds = list(dict.fromkeys(layers))
    return [kinds[index % len(kinds)] for index in range(depth)]
