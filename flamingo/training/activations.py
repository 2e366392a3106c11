"""Activation checkpointing: layers and gated blocks compute their activations again in the backward pass."""

from typing import Any

from torch import nn

from flamingo.utils.errors import UserError


def recompute_activations(model: nn.Module) -> None:
    """Makes the layers of a model of transformers, and the gated blocks, keep only their inputs for the backward pass.

    Raises:
        UserError: If the model has no layers that can do so.
    """
    # The name since transformers 5.23, and the one before.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise UserError(f"training.checkpointing is not supported for a {type(model).__name__}")
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"training.checkpointing is not supported: {error}") from error
