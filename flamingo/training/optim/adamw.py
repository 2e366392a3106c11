"""AdamW with the parameter groups of a model."""

from torch.optim import AdamW

from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import ParameterGroup


def adamw(groups: list[ParameterGroup], config: AdamWConfig) -> AdamW:
    """Returns AdamW over the groups."""
    # Fused: one pass over memory. On a CPU the default takes ten, with temporaries, and up to seconds a step. Only the
    # fused AdamW has ``found_inf``; torch before 2.13 ignores it on MPS.
    return AdamW(groups, betas=config.betas, fused=True)
