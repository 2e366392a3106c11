"""Batches -> the model's device. On a CUDA device the copy overlaps with the step before."""

from functools import cache

import torch

from flamingo.data.collate import Batch
from flamingo.utils.devices import is_cuda


def copied_ahead(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch with its tensors on a device, without waiting for the device.

    A CUDA device copies on a stream of its own. The host runs ahead of the device, as no step reads anything back, so
    the copy from pinned memory runs during the kernels of the step before. Kernels launched from now on see the copy.
    """
    if not is_cuda(device):
        return batch.to(device)
    copies, kernels = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        on_device = batch.to(device)
    kernels.wait_stream(copies)
    for tensor in on_device.tensors.values():
        # The allocator of the copies must not reuse the memory before the kernels have read it.
        tensor.record_stream(kernels)
    return on_device


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
