"""Functions that a training calls, and those that the library provides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Callbacks:
    """Functions that the main process calls during a training, except for the measures."""

    #: Each returns values of the model that are added to a record of the history. All processes call them.
    measures: Sequence[Callable[[nn.Module], dict[str, Any]]] = ()
    #: Gets each record, including those of the steps that a resumed run repeats.
    on_log: Callable[[dict[str, Any]], None] | None = None
    #: Gets the number of steps done. The model is in evaluation mode, and random states are restored afterwards.
    on_sample: Callable[[int], None] | None = None
    #: Called after a state is saved.
    on_save: Callable[[], None] | None = None


NO_CALLBACKS = Callbacks()


def fusion_measures(model: nn.Module) -> dict[str, Any]:
    """Returns the values that the model's fusion adds to the history, such as its gates."""
    fusion: Any = model.fusion
    return fusion.measures()
