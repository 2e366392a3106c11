"""Vision encoders of transformers: their classes by config, and loading."""

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

from flamingo.model.weights_loading import hub_arguments, load_weights
from flamingo.utils.device_names import INT8
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: The name of the part in errors.
_PART = "vision encoder"
#: The prefix of a vision tower's keys in the checkpoint of a whole model.
_TOWER = r"^(?:\w+\.)*?(?:vision_tower|vision_model|vision_encoder|visual|image_encoder|image_model)\."

#: Endings of the class names of vision towers, the most common first.
_VISION_CLASSES = (
    "VisionModel",
    "ImageModel",
    "VisionTransformer",
    "VisionEncoder",
    "VisionBackbone",
    "VisionTransformerPretrainedModel",
)


def load_vision_model(name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Returns a vision encoder; of a two-tower model (CLIP, SigLIP) the vision tower.

    Args:
        name_or_path: A folder or a name on the hub.
        **kwargs: Further arguments of ``from_pretrained``. ``dtype="int8"`` is for language models: bfloat16 here.

    Raises:
        UserError: If there is no such model, or its weights do not fit.
    """
    if kwargs.get("dtype") == INT8:
        kwargs["dtype"] = torch.bfloat16
    config = from_pretrained(AutoConfig, name_or_path, _PART, **hub_arguments(kwargs))
    tower = vision_config(config)
    if tower is not config:
        kwargs["key_mapping"] = {_TOWER: ""}
    return load_weights(vision_class(tower), name_or_path, _PART, _is_of_another_part, config=tower, **kwargs)


def _is_of_another_part(model: PreTrainedModel, key: str) -> bool:
    """Returns whether a key belongs to a head or a text tower, which a whole checkpoint has besides the encoder."""
    for tower in (model.base_model_prefix, "vision_model"):
        key = key.removeprefix(f"{tower}.")
    return key.split(".")[0] not in {name for name, _ in model.named_children()}


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns the config of the vision tower if a model has one (CLIP, LLaVA), otherwise the config itself."""
    return getattr(config, "vision_config", None) or getattr(config, "image_config", None) or config


def make_vision_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a vision encoder with random weights."""
    kind = vision_class(config)
    return kind.from_config(config) if kind is AutoModel else kind(config)


def vision_class(config: PreTrainedConfig) -> Any:
    """Returns the class that loads a vision encoder of this config.

    Many vision towers (BLIP, AltCLIP) are not in transformers' automatic classes: their class is the one vision model
    in the tower's own module.

    Raises:
        UserError: If there is no such class.
    """
    if type(config) in MODEL_MAPPING:
        return AutoModel
    if type(config) in MODEL_FOR_BACKBONE_MAPPING:
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    classes = {name: kind for name, kind in vars(module).items() if getattr(kind, "config_class", None) is type(config)}
    for ending in _VISION_CLASSES:
        candidates = [kind for name, kind in classes.items() if name.endswith(ending)]
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(f"transformers has no vision encoder of the model type {config.model_type}")
