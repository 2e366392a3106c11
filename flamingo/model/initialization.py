"""Initialises linear maps, norms and new tokens of the trained parts."""

import torch
from torch import nn
from transformers import initialization as init

from flamingo.model.language import NewTokenEmbeddings


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Initialises linear maps (they keep the variance of their input), norms, and the rows of new tokens.

    Modules of this project have a ``reset_parameters`` for parameters of their own. The ``init`` functions of
    transformers skip parameters that a checkpoint has filled.

    Raises:
        NotImplementedError: For a module of another class with parameters of its own, which would stay uninitialised.
    """
    match module:
        case nn.Linear():
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        case nn.LayerNorm():
            init.ones_(module.weight)
            init.zeros_(module.bias)
        case nn.RMSNorm():
            init.ones_(module.weight)
        case NewTokenEmbeddings():
            for rows in module.parameters(recurse=False):
                init.normal_(rows, std=0.02)
        case _ if type(module).__module__.startswith("flamingo.") and hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
        case _ if any(True for _ in module.parameters(recurse=False)):
            name = type(module).__name__
            raise NotImplementedError(f"{name} has parameters of its own: initialise them in reset_parameters")
