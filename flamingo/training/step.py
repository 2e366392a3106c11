"""What one update of the weights learns from: batches of several data sets, each token weighing alike."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from flamingo.data.collate import Batch
from flamingo.training.losses.next_token import next_token
from flamingo.utils.errors import UserError

#: From the model, a batch's tensors and the label tokens of the whole update to what the batch adds to the mean loss.
Loss = Callable[[nn.Module, dict[str, Tensor], int], Tensor]


@runtime_checkable
class Batches(Protocol):
    """An endless iterable of :class:`Batch`, as of :class:`flamingo.data.loader.Loader`.

    ``position`` counts the samples that all processes have been given. Iteration starts from it.
    """

    position: int

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass
class DataSet:
    """Endless :class:`Batches`, what their loss is, and how much it weighs.

    With several processes each has its own share of the data. ``weight`` multiplies the mean loss per
    token of this data set (lambda in Flamingo, section 2.4).
    """

    name: str
    batches: Batches
    weight: float = 1.0
    #: What is done with a batch's tensors on the model's device, before the model takes them.
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    loss: Loss = next_token

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

    def ids(self) -> list[str]:
        """``data set: documents`` for every batch."""
        return [f"{data_set.name}: {', '.join(batch.ids)}" for data_set, batch in self.batches]


def next_update(
    data_sets: Sequence[DataSet],
    iterators: Mapping[str, Iterator[Batch]],
    step: int,
    accumulate: int,
    mixing: str,
    accelerator: Accelerator,
) -> Update:
    """``accumulate`` batches of every data set, or (``round_robin``) of the one whose turn ``step`` (from 1) is.

    All are fetched before the first forward pass, because the mean of each is over the tokens of all.
    Raises UserError, naming the data set, where it has no label token, and ValueError where it ends.
    """
    chosen = data_sets if mixing == "accumulated" else [data_sets[(step - 1) % len(data_sets)]]
    batches: list[tuple[DataSet, Batch]] = []
    for data_set in chosen:
        for _ in range(accumulate):
            batch = next(iterators[data_set.name], None)
            if batch is None:
                raise ValueError(f"data set {data_set.name} ended at step {step}: its batches must be endless")
            batches.append((data_set, batch))
    local = {data_set.name: 0.0 for data_set in chosen}
    for data_set, batch in batches:
        local[data_set.name] += batch.label_tokens()
    update = Update(batches, {name: round(n) for name, n in all_reduce_sum(local, accelerator).items()})
    for name, tokens in update.tokens.items():
        if tokens == 0:
            ids = [batch.ids for data_set, batch in batches if data_set.name == name]
            raise UserError(f"data set {name} has no token to train on at step {step}: documents {ids}")
    return update


def accumulate_gradients(
    model: nn.Module, update: Update, accelerator: Accelerator, precision: str, step: int
) -> dict[str, float]:
    """Leave in the parameters the gradients of sum_d weight_d * (mean loss per label token of data set d).

    Returns each data set's mean loss (nats) over the batches of all processes. Raises
    UserError, naming the step, the data set and the documents, where a loss is not finite.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: list[Tensor] = []
    for i, (data_set, batch) in enumerate(update.batches):
        tensors = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.tensors.items()}
        tensors = data_set.prepare(tensors)
        # The processes need to exchange gradients once: after the last of the batches.
        with accelerator.no_sync(model) if i < len(update.batches) - 1 else nullcontext():
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = data_set.loss(model, tensors, update.tokens[data_set.name])
            losses.append(loss.detach())
            # DDP takes the mean over processes of what is to be summed,
            objective = loss * data_set.weight * accelerator.num_processes
            if accelerator.num_processes > 1:
                # and waits for every parameter, also for those that a batch without images leaves out.
                objective = objective + 0.0 * sum(parameter.sum() for parameter in trained)
            accelerator.backward(objective)
    for parameter in trained:
        # Left out by all batches: a gradient of zero, as above, so that the optimizer treats both alike.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return _mean_losses(update, torch.stack(losses).tolist(), accelerator, step)


def _mean_losses(update: Update, losses: list[float], accelerator: Accelerator, step: int) -> dict[str, float]:
    local = dict.fromkeys(update.tokens, 0.0)
    for (data_set, _), loss in zip(update.batches, losses, strict=True):
        local[data_set.name] += loss
    means = all_reduce_sum(local, accelerator)
    if not all(math.isfinite(mean) for mean in means.values()):
        culprits = [name for name, loss in zip(update.ids(), losses, strict=True) if not math.isfinite(loss)]
        raise non_finite_error("loss", step, culprits, accelerator)
    return means


def non_finite_error(what: str, step: int, batches: list[str], accelerator: Accelerator) -> UserError:
    """The error of all processes together, to be raised in each; ``batches`` as from :meth:`Update.ids`."""
    everywhere = gather_object(batches) if accelerator.num_processes > 1 else batches
    return UserError(
        f"the {what} of step {step} is not finite, so the weights stay as they were; "
        f"documents of {'; '.join(everywhere)}"
    )


def all_reduce_sum(values: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Sum of each value over the processes."""
    if accelerator.num_processes == 1:
        return dict(values)
    summed = accelerator.reduce(
        torch.tensor(list(values.values()), dtype=torch.float64, device=accelerator.device), reduction="sum"
    )
    return dict(zip(values, summed.tolist(), strict=True))
