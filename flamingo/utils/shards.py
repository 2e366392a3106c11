"""Tensors that processes share out among themselves (torch's DTensor), and plain tensors, by the same functions."""

from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn


def whole(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Returns the whole of a sharded tensor, or a plain tensor itself. All processes call this together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def is_sharded(module: nn.Module) -> bool:
    """Returns whether a parameter of the module is sharded."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def local_shard(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Returns this process's shard of a sharded tensor, or a plain tensor itself. The result shares its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def gather_like(shard: Shaped[Tensor, "..."], other: Any) -> Shaped[Tensor, "*shape"]:
    """Returns the whole tensor of which each process has a shard, if ``other`` is sharded; otherwise the tensor itself.

    Args:
        shard: The result of computations on :func:`local_shard` of ``other``.
        other: The tensor whose shards have the same places. All processes call this together.
    """
    if not hasattr(other, "to_local"):
        return shard
    from torch.distributed.tensor import DTensor

    mesh, placements = other.device_mesh, other.placements
    return DTensor.from_local(shard, mesh, placements, shape=other.shape, stride=other.stride()).full_tensor()


def shard_like(tensor: Shaped[Tensor, "*shape"], other: Any) -> Shaped[Tensor, "..."]:
    """Returns this process's shard of a whole tensor if ``other`` is sharded; otherwise the tensor itself.

    Args:
        tensor: The tensor, equal in all processes.
        other: The tensor whose shards have the same places.
    """
    if not hasattr(other, "to_local"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None).to_local()
