"""Which class of transformers a vision encoder has, by its config."""

import importlib
from typing import Any

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

from flamingo.utils.errors import UserError

#: How the names of vision towers end, the most usual first.
_VISION_CLASSES = (
    "VisionModel",
    "ImageModel",
    "VisionTransformer",
    "VisionEncoder",
    "VisionBackbone",
    "VisionTransformerPretrainedModel",
)


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the vision tower where a model has one (CLIP, LLaVA), else the config itself."""
    return getattr(config, "vision_config", None) or getattr(config, "image_config", None) or config


def make_vision_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A vision encoder with random weights."""
    kind = vision_class(config)
    return kind.from_config(config) if kind is AutoModel else kind(config)


def vision_class(config: PreTrainedConfig) -> Any:
    """The class that loads a vision encoder of this config.

    Many vision towers (BLIP, AltCLIP) are not in transformers' automatic classes: their class is the one vision model
    in the tower's own module. Raises UserError where there is no such class.
    """
    if type(config) in MODEL_MAPPING:
        return AutoModel
    if type(config) in MODEL_FOR_BACKBONE_MAPPING:
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    own = {name: kind for name, kind in vars(module).items() if getattr(kind, "config_class", None) is type(config)}
    for ending in _VISION_CLASSES:
        found = [kind for name, kind in own.items() if name.endswith(ending)]
        if len(found) == 1:
            return found[0]
    raise UserError(f"transformers has no vision encoder of the model type {config.model_type}")
