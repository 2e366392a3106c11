"""Whether torchrun has started this process. ``accelerate launch`` starts several processes by the same agent."""

import os


def started_by_torchrun() -> bool:
    """Returns whether the parent of this process is an agent of torchrun, which passes signals on to it."""
    return "TORCHELASTIC_RUN_ID" in os.environ
