"""Finds the repeated layers of somebody else's transformer."""

from torch import nn
from transformers import PreTrainedModel

from flamingo.utils.errors import UserError


def repeated_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The one ``ModuleList`` of length ``num_hidden_layers`` that lies in no other such list.

    Raises UserError where there is none or more than one: which one repeats is not to be guessed.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    }
    # Lists within the layers, such as the experts of each, may have the same length.
    found = {name: module for name, module in found.items() if not any(name.startswith(f"{outer}.") for outer in found)}
    if len(found) != 1:
        raise UserError(
            f"{type(model).__name__} should have exactly one ModuleList of length num_hidden_layers={depth}, "
            f"found {sorted(found) or 'none'}"
        )
    return next(iter(found.values()))
