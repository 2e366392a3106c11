"""One update of the weights: batches of several data sets -> gradients, in which each label token has equal weight."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from flamingo.data.batch_sizes import BatchSizes
from flamingo.data.collate import Batch
from flamingo.data.drops import Drops
from flamingo.training.copying import copied_ahead
from flamingo.training.host_sums import host_sums
from flamingo.training.losses.next_token import next_token
from flamingo.training.parallel import Parallel
from flamingo.training.speed import Speed
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError

#: The names of other numbers among those of data sets, when the processes add their numbers.
_DROPPED, _LEFT_OUT = "dropped images", "left out"
_SIZES = tuple(f"size of the batches: {size.name}" for size in fields(BatchSizes))

#: Returns the batch's contribution to the mean loss, given the model, a batch on its device, and the number of label
#: tokens in the whole update.
Loss = Callable[[nn.Module, Batch, int], Float[Tensor, ""]]


@runtime_checkable
class Batches(Protocol):
    """An endless iterable of :class:`Batch`, such as :class:`flamingo.data.loader.Loader`.

    ``position`` counts the samples that all processes have been given. Iteration starts from it.
    """

    position: int

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass
class DataSet:
    """Endless :class:`Batches` with their loss and its weight.

    With several processes each has its own share of the data. ``weight`` multiplies the mean loss per token of this
    data set (lambda in Flamingo, section 2.4).
    """

    name: str
    batches: Batches
    weight: float = 1.0
    #: Applied to a batch's tensors on the model's device, before the loss.
    prepare: Callable[[dict[str, Shaped[Tensor, "..."]]], dict[str, Shaped[Tensor, "..."]]] = dict
    loss: Loss = next_token
    #: Whether the processes share the samples of a batch, so that their number changes no update.
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"data set {self.name}: weight must be positive and finite, got {self.weight}")
        if not hasattr(self.batches, "position"):
            raise ValueError(f"data set {self.name}: its batches have no position, so it could not be resumed")


@dataclass
class Update:
    """The batches of this process that make one update, and the label tokens of each data set in all processes."""

    batches: list[tuple[DataSet, Batch]]
    tokens: dict[str, int]
    #: The number of images that documents with too many tokens lost, in all processes.
    dropped_images: int = 0
    #: The sizes of all batches in all processes.
    sizes: BatchSizes = field(default_factory=BatchSizes)
    #: What streamed samples of this process lost, by reason.
    drops: Drops = field(default_factory=Counter)

    def ids(self) -> list[str]:
        """Returns ``data set: documents`` for every batch."""
        ids = []
        for data_set, batch in self.batches:
            documents = ", ".join(batch.ids)
            ids.append(f"{data_set.name}: {documents}")
        return ids

    def weighted_loss(self, losses: Mapping[str, float]) -> float:
        """Returns the weighted sum of the data sets' losses."""
        weights = {data_set.name: data_set.weight for data_set, _ in self.batches}
        return sum(weight * losses[name] for name, weight in weights.items())


def next_update(
    data_sets: Sequence[DataSet],
    iterators: Mapping[str, Iterator[Batch]],
    step: int,
    accumulate: int,
    mixing: str,
) -> Update:
    """Returns ``accumulate`` batches of every data set, or of one data set that ``step`` chooses.

    All batches are fetched before the first forward pass: the mean loss is over the tokens of all of them, in all
    processes.

    Args:
        data_sets: The data sets.
        iterators: Name of a data set -> its batches.
        step: The number of the step, from 1 on.
        accumulate: The number of batches of each data set.
        mixing: "accumulated": all data sets; "round_robin": one, in turn.

    Raises:
        UserError: If a data set has no label token although no sample was left out; the error names it.
        ValueError: If a data set ends.
    """
    if mixing == "round_robin":
        turn = (step - 1) % len(data_sets)
        data_sets = [data_sets[turn]]
    batches: list[tuple[DataSet, Batch]] = []
    local_tokens: dict[str, float] = {}
    drops: Drops = Counter()
    for data_set in data_sets:
        local_tokens[data_set.name] = 0.0
        for _ in range(accumulate):
            batch = next(iterators[data_set.name], None)
            if batch is None:
                raise ValueError(f"data set {data_set.name} ended at step {step}: its batches must be endless")
            batches.append((data_set, batch))
            local_tokens[data_set.name] += batch.label_tokens
            drops.update(batch.drops)
    dropped_images = float(sum(batch.dropped_images for _, batch in batches))
    counts = {_DROPPED: dropped_images, _LEFT_OUT: float(drops.total())}
    local_sizes = sum((batch.sizes for _, batch in batches), BatchSizes())
    named_sizes = dict(zip(_SIZES, map(float, astuple(local_sizes)), strict=True))
    sums = host_sums(local_tokens | counts | named_sizes)
    num_dropped_images, num_left_out = round(sums.pop(_DROPPED)), sums.pop(_LEFT_OUT)
    sizes = BatchSizes(*[round(sums.pop(name)) for name in _SIZES])
    tokens = {name: round(number) for name, number in sums.items()}
    for name, number in tokens.items():
        # A streamed batch may lose all its documents. Its gradient is then zero.
        if number == 0 and num_left_out == 0:
            ids = [batch.ids for data_set, batch in batches if data_set.name == name]
            raise UserError(f"data set {name} has no token to train on at step {step}: documents {ids}")
    return Update(batches, tokens, num_dropped_images, sizes, drops)


def accumulate_gradients(
    parallel: Parallel,
    update: Update,
    precision: str,
    speed: Speed,
) -> list[Float[Tensor, ""]]:
    """Adds the gradients of sum_d weight_d * (mean loss per label token of data set d) to the parameters.

    Args:
        parallel: The model as the processes share it.
        update: The batches.
        precision: "fp32", or "bf16" for autocast.
        speed: Times the forward and the backward passes.

    Returns:
        The contribution of each batch to the mean loss (nats) of its data set, on the device.
    """
    trained = [parameter for parameter in parallel.bare.parameters() if parameter.requires_grad]
    device = processes().device
    losses: list[Tensor] = []
    for number, (data_set, batch) in enumerate(update.batches, start=1):
        on_device = copied_ahead(batch, device)
        prepared = parallel.completed(replace(on_device, tensors=data_set.prepare(on_device.tensors)))
        # The processes exchange gradients once: after the last batch.
        is_last = number == len(update.batches)
        with parallel.synchronised(is_last):
            with speed.part("forward"), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = data_set.loss(parallel.model, prepared, max(1, update.tokens[data_set.name]))
            losses.append(loss.detach())
            weighted = parallel.joined(loss * data_set.weight)
            with speed.part("backward"):
                weighted.backward()
    for parameter in trained:
        # A parameter that no batch uses gets a gradient of zero in every engine: the optimizer treats all alike.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return losses
