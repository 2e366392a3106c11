"""Batches -> trained weights."""

import math
from dataclasses import dataclass

from flamingo.utils.checks import one_of, seed, whole


@dataclass
class TrainingConfig:
    """How long to train, on how much per update, and what to write when."""

    #: Updates of the weights.
    steps: int
    #: Batches of each data set per update.
    accumulate: int = 1
    #: Data sets of an update: all of them (accumulated), or one after the other. See Flamingo, section 2.4 and table 3.
    mixing: str = "accumulated"
    #: bf16 is autocast: parameters, gradients and the optimizer's state stay in fp32.
    precision: str = "fp32"
    #: Steps between two lines of history.jsonl.
    log_every: int = 10
    #: Steps between two states that the run can resume from.
    save_every: int = 500
    #: Steps between two logs of sample answers; 0: none.
    sample_every: int = 0
    #: The seed of documents and their order.
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "accumulate", "log_every", "save_every"):
            whole(key, getattr(self, key), least=1)
        whole("sample_every", self.sample_every, least=0)
        seed("seed", self.seed)
        one_of("mixing", self.mixing, ("accumulated", "round_robin"))
        one_of("precision", self.precision, ("fp32", "bf16"))

    def due(self, every: int, step: int) -> bool:
        """Whether an action that happens every ``every`` steps (0: never), and after the last one, is due."""
        return every > 0 and (step % every == 0 or step == self.steps)

    def number_due(self, every: int) -> int:
        """Returns how often an action of :meth:`due` happens in the whole training."""
        return 0 if every == 0 else math.ceil(self.steps / every)
