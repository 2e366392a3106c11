"""Builds an untrained backbone of transformers from the fields of its ``config.json``, after a check of the fields."""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

from flamingo.utils.checks import one_of
from flamingo.utils.devices import META
from flamingo.utils.errors import UserError


def check_architecture(auto_class: Any, fields: Mapping[str, Any]) -> None:
    """Checks that transformers can build a model of these fields, without memory for its weights.

    Args:
        auto_class: The AutoClass of the model.
        fields: The config's ``model``.

    Raises:
        UserError: If it cannot.
        MemoryError: If the host is out of memory.
    """
    one_of("model.model_type", fields.get("model_type"), CONFIG_MAPPING)
    try:
        with META:
            build_architecture(auto_class, fields)
    except MemoryError:
        raise
    except Exception as error:  # modeling files raise exceptions of any type for fields that do not fit
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model: {fields['model_type']} cannot be built from these fields: {reason}") from error


def build_architecture(auto_class: Any, fields: Mapping[str, Any]) -> PreTrainedModel:
    """Returns a model with random weights."""
    return auto_class.from_config(AutoConfig.for_model(**fields))
