"""AdamW with the parameter groups of a model."""

from torch.optim import AdamW

from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import ParameterGroup


def adamw(groups: list[ParameterGroup], config: AdamWConfig) -> AdamW:
    """Returns AdamW over the groups."""
    # The fused AdamW makes one pass over memory. The default makes ten, with temporaries, and takes up to seconds per
    # step on a CPU. Only the fused AdamW has ``found_inf``; torch before 2.13 ignores it on MPS.
    return AdamW(groups, betas=config.betas, fused=True)
