"""What a training measures besides its loss: held-out documents, and the arithmetic of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from flamingo.training.flops import TrainingFlops
from flamingo.training.validation import HeldOut


@dataclass(frozen=True)
class Monitoring:
    """What a training measures."""

    #: Documents whose loss is measured.
    held_out: Sequence[HeldOut] = ()
    #: The operations of a step; None where they are not known.
    flops: TrainingFlops | None = None


NO_MONITORING = Monitoring()
