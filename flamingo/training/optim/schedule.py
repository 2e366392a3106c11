"""The learning rate over the steps of a training: a linear warm-up, then constant or a cosine."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flamingo.training.optim import OptimizerConfig, check_warmup


def lr_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Returns the factor of the learning rates at ``step`` of ``steps``, counted from 1; a cosine ends at 0."""
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def make_schedule(optimizer: Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR:
    """Returns the schedule of a training of ``steps``.

    Raises:
        UserError: If no step is left after the warm-up.
    """
    check_warmup(config, steps)
    # LambdaLR counts from 0 and is called once more after the last step, hence the minimum.
    return LambdaLR(optimizer, lambda done: lr_factor(config, min(done + 1, steps), steps))
