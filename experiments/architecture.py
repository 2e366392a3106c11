"""A backbone that a config describes as its own ``config.json`` would, checked before anything is computed."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from flamingo.utils.checks import one_of
from flamingo.utils.errors import UserError


def check_architecture(auto: Any, fields: dict[str, Any]) -> None:
    """Raise UserError unless transformers builds a model of these fields; it is built without memory for its weights.

    Args:
        auto: The AutoClass of the model.
        fields: The config's ``model``, ``model_type`` among them.
    """
    one_of("model.model_type", fields.get("model_type"), CONFIG_MAPPING)
    try:
        with torch.device("meta"):
            auto.from_config(AutoConfig.for_model(**fields))
    except MemoryError:
        raise
    except Exception as error:  # whatever a modeling file makes of fields that do not fit
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model: {fields['model_type']} cannot be built of these fields: {reason}") from error
