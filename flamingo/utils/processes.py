"""The processes of a run, and the memory that they keep."""

import ctypes
import sys

import torch
from accelerate import PartialState

#: Of glibc's malloc.h: how many memory maps malloc may use, and how much it may keep at the end of its heap.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def start_processes() -> PartialState:
    """Returns the state of this run's processes; the first call chooses the backend that they communicate with."""
    # accelerate does not choose the CPU backend by itself where there is no accelerator.
    return PartialState(cpu=not torch.accelerator.is_available())


def keep_memory() -> None:
    """Let glibc keep the memory of freed tensors: memory that is returned costs a page fault at the next allocation.

    Activations of a batch of long prompts, or of images in a convolutional encoder, take hundreds of megabytes a
    layer, and page faults take a seventh of the time or more. Small tensors become slightly slower. Allocators of other
    systems are not changed.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
