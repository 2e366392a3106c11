"""Explains errors of processes whose run has lost another process."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lost_process_explained() -> Iterator[None]:
    """Adds a sentence to the trace of an error of collectives, by which a process notices that another one has ended.

    Raises:
        RuntimeError: The error itself.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_of_collectives(error):
            error.add_note(
                "Another process of this run has ended or does not answer: its own log says why. Nothing was saved "
                "after that. Start the same command again to continue from the last saved state."
            )
        raise


def _is_of_collectives(error: RuntimeError) -> bool:
    from torch import distributed  # commands without a model do not load torch

    # gloo's errors have no type of their own. They begin with the file of its source.
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)
