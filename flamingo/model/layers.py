"""Finds the repeated layers of somebody else's transformer."""

from torch import nn
from transformers import PreTrainedModel

from flamingo.utils.errors import UserError


def repeated_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The one ``ModuleList`` of length ``num_hidden_layers`` that lies in no other ``ModuleList``.

    Raises UserError where there is none or more than one: which one repeats is not to be guessed.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    # Lists within layers or stages, such as the experts of each, may have the same length.
    outermost = {name for name in lists if not any(name.startswith(f"{outer}.") for outer in lists)}
    found = {name: module for name, module in lists.items() if name in outermost and len(module) == depth}
    if len(found) != 1:
        raise UserError(
            f"{type(model).__name__} should have exactly one ModuleList of length num_hidden_layers={depth}, "
            f"found {sorted(found) or 'none'}"
        )
    return next(iter(found.values()))
