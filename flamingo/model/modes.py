"""Training mode for the modules that train, evaluation mode for those that are frozen."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def evaluate_frozen(backbone: nn.Module) -> None:
    """Put every frozen module of a backbone in evaluation mode, where it draws nothing (a router's noise, dropout).

    A module trains if a parameter in it does. One without parameters, such as an adapter's dropout, follows the module
    that it is part of. Batch norms keep the statistics that they came with.
    """
    training = backbone.training
    if not _trains(backbone):
        backbone.eval()
    else:
        _evaluate_frozen_children(backbone)
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.training = False
        elif getattr(module, "gradient_checkpointing", False):
            # A layer recomputes its activations in training mode alone. Its submodules stay as they are.
            module.training = training


def _evaluate_frozen_children(module: nn.Module) -> None:
    for child in module.children():
        if _trains(child):
            _evaluate_frozen_children(child)
        elif any(True for _ in child.parameters()):
            child.eval()


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
