"""AdamW with the parameter groups of a model."""

from torch.optim import AdamW

from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import ParameterGroup


def adamw(groups: list[ParameterGroup], config: AdamWConfig) -> AdamW:
    """Returns AdamW over the groups."""
    # Fused: one pass over memory, and ``found_inf``, which torch ignores on MPS before pytorch#186360. On a CPU the
    # default takes ten passes, with temporaries, and up to seconds a step.
    return AdamW(groups, betas=config.betas, fused=True)
