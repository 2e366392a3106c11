"""Loads frozen weights, and refuses weights that do not fit: transformers would draw missing ones at random."""

import importlib.util
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: The largest number of keys of a kind that an error names.
_SHOWN_KEYS = 5


def load_weights(
    loader: Any,
    name_or_path: str | Path,
    part: str,
    may_be_unexpected: Callable[[PreTrainedModel, str], bool] = lambda model, key: False,
    **kwargs: Any,
) -> Any:
    """Returns a model whose weights all come from the checkpoint. Poolers are excepted, since they are unused.

    Args:
        loader: The class of transformers that loads it.
        name_or_path: A folder, a name on the hub, or a GGUF file.
        part: The name of the part in errors.
        may_be_unexpected: Returns whether the checkpoint may have a key that is not a parameter of the model.
        **kwargs: Further arguments of ``from_pretrained``.

    Raises:
        UserError: If keys are missing, unexpected or of another shape; the error names them.
    """
    model, report = from_pretrained(
        loader, name_or_path, part, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    check_keys(model, report, name_or_path, part, may_be_unexpected)
    return model


def check_keys(
    model: PreTrainedModel,
    report: dict[str, Any],
    name_or_path: str | Path,
    part: str,
    may_be_unexpected: Callable[[PreTrainedModel, str], bool] = lambda model, key: False,
) -> None:
    """Checks the report of transformers on the keys of a checkpoint. See :func:`load_weights`.

    Raises:
        UserError: If keys are missing, unexpected or of another shape; the error names them.
    """
    problems = {
        "missing": [key for key in report["missing_keys"] if "pooler" not in key],
        "unexpected": [
            key for key in report["unexpected_keys"] if "pooler" not in key and not may_be_unexpected(model, key)
        ],
        "of another shape": [key for key, *_ in report["mismatched_keys"]],
    }
    messages = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in problems.items() if keys]
    if messages:
        raise UserError(
            f"{part} {name_or_path}: its weights are not those of a {type(model).__name__}; keys: {', '.join(messages)}"
        )


def int8_arguments() -> dict[str, Any]:
    """Returns the arguments of ``from_pretrained`` that load linear layers in int8, and other weights in bfloat16.

    Raises:
        UserError: Without bitsandbytes.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("dtype=int8 needs the package bitsandbytes")
    # It warns in each call that bfloat16 is cast to float16 before it is rounded to int8.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return {"dtype": torch.bfloat16, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}


def is_quantised(model: nn.Module) -> bool:
    """Returns whether transformers loaded the model with a ``quantization_config``."""
    return getattr(model, "hf_quantizer", None) is not None


def _some(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    more = ["..."] if len(ordered) > _SHOWN_KEYS else []
    return ", ".join(ordered[:_SHOWN_KEYS] + more)


def hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of ``from_pretrained`` that determine where files come from."""
    names = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "trust_remote_code")
    return {name: kwargs[name] for name in names if name in kwargs}
