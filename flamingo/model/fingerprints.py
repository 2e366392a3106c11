"""Fingerprints of weights: digests by which a checkpoint recognises the backbones that it leaves out."""

import hashlib
from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

#: The number of values of a tensor that are compared, at most twice as many.
_VALUES = 256


def fingerprint(model: nn.Module) -> str:
    """Returns a digest of the weights' values. Names, device, and float32 or bfloat16 do not change it.

    Weights that are read later (:mod:`flamingo.model.sharded_loading`) have the digest that they will have then.
    """
    deferred = getattr(model, "deferred_weights", None)
    if deferred is not None:
        return digest(deferred.samples(model))
    return fingerprint_of(model.state_dict().values())


def fingerprint_of(tensors: Iterable[Shaped[Tensor, "..."]]) -> str:
    """Returns a digest of the tensors' shapes and of some values of each, in any order.

    All processes that share a sharded tensor call this together.
    """
    return digest((tuple(tensor.shape), sampled(tensor)) for tensor in tensors)


def digest(samples: Iterable[tuple[tuple[int, ...], Shaped[Tensor, " values"]]]) -> str:
    """Returns a digest of the shapes of tensors and of their values of :func:`sampled`, in any order."""
    digests = []
    for shape, values in samples:
        bits = values.to(torch.bfloat16).view(torch.int16).tolist()
        digests.append(hashlib.sha256(f"{shape}{bits}".encode()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]


def sampled(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, " values"]:
    """Returns values of a tensor at equal distances. No process gathers a sharded tensor for it."""
    step = max(1, tensor.numel() // _VALUES)
    if isinstance(tensor, DTensor):
        return _sampled_from_shards(tensor, step)
    return tensor.flatten()[::step]


def _sampled_from_shards(tensor: DTensor, step: int) -> Tensor:
    """Returns every ``step``-th value of a tensor whose rows are shared out among processes."""
    mesh, placements = tensor.device_mesh, tensor.placements
    _, (first_row, *_) = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    start = first_row * tensor.shape[1:].numel()
    # Ranks behind the last row have none.
    skipped = -(-start // step)
    own = tensor.to_local().flatten()[skipped * step - start :: step].to(torch.bfloat16)
    # Sum bits, since 0.0 + -0.0 is 0.0. NCCL does not add int16.
    bits = torch.zeros(-(-tensor.numel() // step), dtype=torch.int32, device=own.device)
    bits[skipped : skipped + len(own)] = own.view(torch.int16).int()
    for axis, placement in enumerate(placements):
        if placement.is_replicate():
            continue
        assert placement == Shard(0), f"the tensor is placed as {placement}"
        distributed.all_reduce(bits, group=mesh.get_group(axis))
    return bits.to(torch.int16).view(torch.bfloat16)
