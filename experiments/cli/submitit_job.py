"""A job that submitit started: its tasks are the processes of one run, and it goes back into the queue."""

import os
import signal
import sys


def is_submitted() -> bool:
    """Returns whether submitit has started this process."""
    return "SUBMITIT_EXECUTOR" in os.environ


def join_tasks() -> None:
    """Makes the tasks of a job of submitit the processes of one distributed run, as torchrun does.

    The device of a task is chosen by its local rank, as torchrun's processes choose theirs. submitit would set
    CUDA_VISIBLE_DEVICES, to a device that SLURM may have given to another job.
    """
    if not is_submitted():
        return
    # submitit is an extra, and it is there where it has started this process.
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def requeue_after(number: int) -> None:
    """Puts a job of submitit back into the queue, if the signal that ended it asks for that.

    The handler of submitit does so in the task of rank 0, and ends it. The other tasks end with status 0: SLURM may
    kill a job as soon as a task fails. Without submitit, and after other signals, this function does nothing.

    Args:
        number: The signal that ended the run. All tasks have saved its state.
    """
    handler = signal.getsignal(number)
    if is_submitted() and callable(handler) and number not in (signal.SIGINT, signal.SIGTERM):
        handler(number, None)
        sys.exit(0)
