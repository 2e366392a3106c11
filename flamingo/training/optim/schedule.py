"""The learning rate over the steps of a training: a linear warm-up, then constant or a cosine."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flamingo.training.optim import OptimizerConfig, check_warmup


class LRFactor:
    """The factor of all learning rates in a training of a number of steps. A cosine ends at 0.

    Its attributes are numbers and texts, since the state of a ``LambdaLR`` keeps only these.
    """

    def __init__(self, config: OptimizerConfig, steps: int) -> None:
        self.schedule, self.warmup_steps, self.steps = config.schedule, config.warmup_steps, steps
        #: The step after which the decay begins, and the factor at its beginning.
        self.decay_start, self.decay_from = config.warmup_steps, 1.0

    def at(self, step: int) -> float:
        """Returns the factor at a step, counted from 1."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.decay_start) / (self.steps - self.decay_start)
        return self.decay_from * (0.5 * (1 + math.cos(math.pi * progress)))

    def __call__(self, done: int) -> float:
        """Returns the factor of the next step, given the number of steps that are done."""
        # LambdaLR calls this once more after the last step, hence the minimum.
        return self.at(min(done + 1, self.steps))

    @property
    def decays_again(self) -> bool:
        """Whether a decay after the first one has begun."""
        return self.decay_start > self.warmup_steps

    def lengthen(self, done: int, steps: int) -> None:
        """Extends the training to ``steps``, of which ``done`` are done: a new cosine begins at the last factor.

        The cosine of a finished training ends at 0, from which nothing would be learnt. The new one then begins at 1.
        """
        if self.schedule == "cosine" and done > self.warmup_steps:
            self.decay_start, self.decay_from = done, self.at(done) or 1.0
        self.steps = steps


def make_schedule(optimizer: Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR:
    """Returns the schedule of a training of ``steps``.

    Raises:
        UserError: If no step is left after the warm-up.
    """
    check_warmup(config, steps)
    return LambdaLR(optimizer, LRFactor(config, steps))


def factor_of(schedule: LambdaLR) -> LRFactor:
    """Returns the factor that a schedule of :func:`make_schedule` applies to all groups."""
    factor = schedule.lr_lambdas[0]
    assert isinstance(factor, LRFactor)
    return factor


def lengthen(schedule: LambdaLR, done: int, steps: int) -> None:
    """Extends a schedule that was made or saved for fewer steps.

    Args:
        schedule: A schedule of :func:`make_schedule`.
        done: The number of steps that are done.
        steps: The new number of steps.
    """
    factor = factor_of(schedule)
    factor.lengthen(done, steps)
    for group, lr in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = lr * factor(done)
