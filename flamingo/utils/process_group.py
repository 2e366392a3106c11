"""How a process of a distributed run ends: it leaves its process groups before the interpreter ends."""

import atexit
from functools import cache


@cache
def leave_at_exit() -> None:
    """Lets this process leave its process groups when it ends.

    Otherwise a thread of gloo that still runs aborts the process at its end, and a launcher takes the run for failed.
    This function is for a process that ends as planned: after the death of another process leaving may take for ever.
    """
    atexit.register(_leave)


def _leave() -> None:
    from torch import distributed  # commands without a model do not load torch

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
