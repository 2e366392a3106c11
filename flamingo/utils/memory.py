"""Memory: glibc keeps that of freed tensors, and a full device is a user's error."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flamingo.utils.errors import UserError

#: From glibc's malloc.h: the parameters for the number of memory maps, and for the bytes kept at the heap's end.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def keep_memory() -> None:
    """Makes glibc keep the memory of freed tensors: returned memory costs a page fault at the next allocation.

    Activations of a batch of long prompts, or of images in a convolutional encoder, take hundreds of megabytes a
    layer, and page faults take a seventh of the time or more. Small tensors become slightly slower. Other systems'
    allocators are not changed.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


@contextmanager
def out_of_memory(*keys: str) -> Iterator[None]:
    """Turns a device's lack of memory inside the block into a UserError that names the keys to lower.

    Args:
        *keys: The keys, with their values where this helps.

    Raises:
        UserError: If the device runs out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the device has too little memory: lower {' or '.join(keys)}") from error
