"""Functions that a training calls, and the ones that the library has: the values of the gates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Callbacks:
    """Functions that the main process calls during a training."""

    #: Each returns values of the model that are added to a record of the history, at the top level.
    measures: Sequence[Callable[[nn.Module], dict[str, Any]]] = ()
    #: Gets each record, also those of the steps that a resumed run repeats.
    on_log: Callable[[dict[str, Any]], None] | None = None
    #: Gets the number of steps done. The model is in evaluation mode, and random states are restored afterwards.
    on_sample: Callable[[int], None] | None = None
    #: Is called after a state is saved.
    on_save: Callable[[], None] | None = None


NO_CALLBACKS = Callbacks()


@torch.no_grad()
def gate_values(model: nn.Module) -> dict[str, Any]:
    """Returns under ``gates`` tanh of each gate, as ``<layer>.attention`` and ``<layer>.feedforward``.

    A vector's value is its mean magnitude.
    """
    values = {}
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            gate = torch.tanh(parameter.float())
            layer_and_part = name.removeprefix("gated_layers.").removesuffix("_gate")
            values[layer_and_part] = gate.item() if gate.numel() == 1 else gate.abs().mean().item()
    return {"gates": values}
