"""Memory: glibc keeps that of freed tensors, and a device without enough of it is a user's error."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flamingo.utils.errors import UserError

#: Of glibc's malloc.h: how many memory maps malloc may use, and how much it may keep at the end of its heap.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


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


@contextmanager
def out_of_memory(*keys: str) -> Iterator[None]:
    """Where a device runs out of memory inside the block, raises UserError, which names the keys to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the device has too little memory: lower {' or '.join(keys)}") from error
