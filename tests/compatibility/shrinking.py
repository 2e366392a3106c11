"""Tiny configs of any model of transformers, made from the default ones by the names of their fields."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


def tiny_config(model_type: str, sizes: dict[str, int], special: dict[str, Any]) -> PreTrainedConfig:
    """A config of ``model_type`` whose fields have the values in ``sizes``, and those in ``special`` first of all."""
    settings = shrunk(_default_config(model_type, special), sizes)
    for key, value in special.items():
        nested = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = {**settings[key], **value} if nested else value
    return AutoConfig.for_model(model_type, **settings)


def _default_config(model_type: str, special: dict[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.for_model(model_type)
    except Exception:  # some have no valid defaults
        return AutoConfig.for_model(model_type, **special)


def shrunk(config: PreTrainedConfig, sizes: dict[str, int]) -> dict[str, Any]:
    """The settings that make a tiny config like ``config``; nested configs are shrunk alike."""
    settings: dict[str, Any] = {}
    depth = getattr(config, "num_hidden_layers", None)
    for key, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            depth_of_other = {} if key == "text_config" else {"num_hidden_layers": sizes["num_hidden_layers"] - 1}
            settings[key] = {"model_type": value.model_type, **shrunk(value, sizes | depth_of_other)}
        elif key in sizes and (value is not None or key == "num_key_value_heads"):
            settings[key] = sizes[key]
        elif isinstance(value, list) and len(value) == depth and all(isinstance(kind, str) for kind in value):
            settings[key] = _every_kind(value, sizes["num_hidden_layers"])
    if "kv_lora_rank" in settings and "num_key_value_heads" in settings:  # multi-head latent attention
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    return settings


def _every_kind(layers: list[str], depth: int) -> list[str]:
    """A list of ``depth`` layers in which every kind occurs."""
    kinds = list(dict.fromkeys(layers))
    return [kinds[index % len(kinds)] for index in range(depth)]
