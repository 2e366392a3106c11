"""Autocast where weights are fp32, and not where frozen weights have 16 bits.

Trained parts keep fp32 weights, and autocast multiplies them in 16 bits. A frozen backbone of 16 bits needs no
autocast, which would compute its norms in fp32, and cast their outputs again for each projection.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from flamingo.utils.devices import HOST

#: Devices on which backbones stay under autocast: a CPU gains little, and results there stay as they are.
_KEEPING = (HOST.type,)


@dataclass(frozen=True)
class Autocast:
    """The autocast of a place in the program, to be entered at another one."""

    device_type: str
    #: None: no autocast.
    dtype: torch.dtype | None

    def entered(self) -> AbstractContextManager[object]:
        """Returns a context with this autocast."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, self.dtype)


def current_autocast(device: torch.device) -> Autocast:
    """Returns the autocast of the caller."""
    is_enabled = torch.is_autocast_enabled(device.type)
    return Autocast(device.type, torch.get_autocast_dtype(device.type) if is_enabled else None)


def in_own_precision(module: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """Returns a context for a forward pass of a backbone.

    It leaves autocast if all weights of the backbone are frozen and have the dtype of autocast.

    Args:
        module: The backbone.
        device: Its device. On a CPU the context does nothing.
    """
    autocast = current_autocast(device)
    if device.type in _KEEPING or autocast.dtype is None:
        return nullcontext()
    for parameter in module.parameters():
        if parameter.requires_grad or parameter.dtype != autocast.dtype:
            return nullcontext()
    return torch.autocast(device.type, enabled=False)
