"""Finds the repeated layers of a transformer, language model or encoder."""

from torch import nn
from transformers import PreTrainedModel

from flamingo.utils.errors import UserError


def repeated_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Returns the one ``ModuleList`` of length ``num_hidden_layers`` that lies in no other ``ModuleList``.

    Raises:
        UserError: If there is none, or more than one.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    # Lists within layers or stages, such as the experts of a layer, may have the same length.
    prefixes = tuple(f"{name}." for name in lists)
    names = [name for name, module in lists.items() if len(module) == depth and not name.startswith(prefixes)]
    if len(names) != 1:
        raise UserError(
            f"{type(model).__name__} should have exactly one ModuleList of length num_hidden_layers={depth}, "
            f"found {sorted(names) or 'none'}"
        )
    return lists[names[0]]
