"""Held-out documents -> their loss with and without images, and what the images are worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from flamingo.data.collate import Batch
from flamingo.data.encode import IMAGES
from flamingo.training.copying import copied_ahead
from flamingo.training.host_sums import host_sums
from flamingo.training.losses.next_token import next_token
from flamingo.training.parallel import Parallel
from flamingo.training.random_states import untouched_random_states
from flamingo.utils.devices import processes


@dataclass(frozen=True)
class HeldOut:
    """Documents that no step trains on, in batches that are equal at every pass."""

    #: The data set whose documents they are like.
    name: str
    batches: Sequence[Batch]
    #: Is applied to a batch's tensors on the model's device, before the loss.
    prepare: Callable[[dict[str, Shaped[Tensor, "..."]]], dict[str, Shaped[Tensor, "..."]]] = dict


def held_out_losses(parallel: Parallel, held_out: Sequence[HeldOut], precision: str) -> dict[str, float]:
    """Returns the next-token losses of held-out documents, in nats per label token.

    The processes share the batches. All of them call this function and get the same numbers. The model computes in
    evaluation mode, without dropout, and is left in training mode.

    Args:
        parallel: The model as the processes share it.
        held_out: The documents of each data set.
        precision: ``bf16`` computes under autocast, as the training does.

    Returns:
        For each data set ``held_out_loss/NAME``; ``blind_held_out_loss/NAME``, in which no text sees an image; and
        ``image_nats/NAME``, the blind loss minus the held-out loss.
    """
    parallel.bare.eval()
    values: dict[str, float] = {}
    with untouched_random_states(), torch.no_grad():
        for data in held_out:
            values |= _losses(parallel, data, precision)
    parallel.bare.train()
    return values


def _losses(parallel: Parallel, data: HeldOut, precision: str) -> dict[str, float]:
    device = processes().device
    label_tokens = 0
    losses: list[Tensor] = []
    num_processes = processes().num_processes
    for first in range(0, len(data.batches), num_processes):
        number = first + processes().process_index
        # All processes call a sharded model equally often. A process without a batch computes one that does not count.
        counts = number < len(data.batches)
        batch = data.batches[number if counts else first]
        on_device = copied_ahead(batch, device)
        seeing = replace(on_device, tensors=data.prepare(on_device.tensors))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            seeing_loss = next_token(parallel.bare, parallel.completed(seeing), 1)
            blind_loss = next_token(parallel.bare, parallel.completed(blind(seeing)), 1)
        if counts:
            label_tokens += batch.label_tokens
            losses += [seeing_loss, blind_loss]
    # Read once, after all batches: no batch waits for the host.
    numbers = torch.stack(losses).tolist() if losses else []
    seeing_sum, blind_sum = sum(numbers[0::2]), sum(numbers[1::2])
    totals = host_sums({"seeing": seeing_sum, "blind": blind_sum, "tokens": float(label_tokens)})
    return _values(data.name, totals)


def _values(name: str, totals: Mapping[str, float]) -> dict[str, float]:
    seeing_loss = totals["seeing"] / totals["tokens"]
    blind_loss = totals["blind"] / totals["tokens"]
    return {
        f"held_out_loss/{name}": seeing_loss,
        f"blind_held_out_loss/{name}": blind_loss,
        f"image_nats/{name}": blind_loss - seeing_loss,
    }


def blind(batch: Batch) -> Batch:
    """Returns the batch without images, in which no text sees one. The image markers stay in the text."""
    image_index = batch.tensors["image_index"]
    tensors = {name: tensor for name, tensor in batch.tensors.items() if name not in IMAGES}
    tensors["image_index"] = torch.full_like(image_index, -1)
    if "image_places" in tensors:
        tensors["image_places"] = image_index.new_empty(0)
    return replace(batch, tensors=tensors)
