"""Guard against a loss or a gradient that is not finite: it freezes the weights at once, and stops the run later."""

import math
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.training.host_sums import host_sums
from flamingo.training.parallel import Parallel
from flamingo.training.step import Update
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError


@dataclass
class _Step:
    """A step whose values are still on the device."""

    number: int
    #: The data set of each batch, and the same with its documents.
    names: list[str]
    documents: list[str]
    #: The loss of each batch, the norm of the gradient, and :attr:`Guard.found` after the step.
    values: Float[Tensor, " batches_and_2"]


class Guard:
    """Keeps the losses and the norms of the gradient on the device until :meth:`read`, for example at log lines.

    A step in which one of them is not finite sets :attr:`found`. From then on no step changes anything: an optimizer
    skips its step if its ``found_inf`` is 1, and the guard restores the model's buffers.
    """

    def __init__(self, parallel: Parallel) -> None:
        """Starts with nothing found.

        Args:
            parallel: The model, in training mode, and its processes.
        """
        #: The norm of the gradient in the last step that was read.
        self.gradient_norm = math.nan
        #: 1 after the first step that is not finite, before it 0; the same in all processes.
        self.found: Float[Tensor, ""] = torch.zeros((), device=processes().device)
        self._parallel = parallel
        self._buffers = _changing_buffers(parallel.bare)
        self._before: list[Tensor] = []
        self._steps: list[_Step] = []

    def begin(self) -> None:
        """Begins a step: copies the buffers, which its forward passes may change."""
        self._before = [buffer.clone() for buffer in self._buffers]

    def end(self, step: int, update: Update, losses: list[Float[Tensor, ""]], gradient_norm: Float[Tensor, ""]) -> None:
        """Updates :attr:`found` after the backward passes of a step, before the optimizer's step.

        Args:
            step: The number of the step, from 1 on.
            update: Its batches.
            losses: The loss of each batch.
            gradient_norm: The norm of the gradient that all processes share.
        """
        values = torch.stack([*losses, gradient_norm])
        not_finite = (~values.isfinite().all()).float()
        # A loss may be infinite in only one process.
        not_finite = self._parallel.summed(not_finite).clamp(max=1)
        self.found = torch.maximum(self.found, not_finite)
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(torch.where(self.found > 0, before, buffer))
        names = [data_set.name for data_set, _ in update.batches]
        self._steps.append(_Step(step, names, update.ids(), torch.cat([values, self.found.view(1)])))

    def read(self) -> dict[str, float]:
        """Returns the last mean loss (nats) of each data set since the last call. This waits for the device.

        The mean is over the label tokens of all processes, which call this at the same step.

        Raises:
            UserError: After a step that was not finite; the error names the step and the documents.
        """
        if not self._steps:
            return {}
        steps, self._steps = self._steps, []
        numbers = torch.cat([step.values for step in steps]).tolist()
        losses: dict[str, float] = {}
        for step in steps:
            *losses_of_batches, self.gradient_norm, found = numbers[: len(step.values)]
            numbers = numbers[len(step.values) :]
            if found:
                raise self._error(step, losses_of_batches)
            losses.update(_sums(step.names, losses_of_batches))
        return host_sums(losses)

    def _error(self, step: _Step, losses: list[float]) -> UserError:
        """Returns the error that every process raises, with the documents of all processes."""
        documents = step.documents
        with_bad_loss = [ids for ids, loss in zip(documents, losses, strict=True) if not math.isfinite(loss)]
        if processes().num_processes > 1:
            documents = gather_object(documents)
            with_bad_loss = gather_object(with_bad_loss)
        quantity = "loss" if with_bad_loss else "gradient"
        return UserError(
            f"the {quantity} of step {step.number} is not finite, so the weights stay as they were before it; "
            f"documents of {'; '.join(with_bad_loss or documents)}"
        )


def _sums(names: list[str], losses: list[float]) -> dict[str, float]:
    sums = dict.fromkeys(names, 0.0)
    for name, loss in zip(names, losses, strict=True):
        sums[name] += loss
    return sums


def _changing_buffers(model: nn.Module) -> list[Tensor]:
    """Returns the buffers in a checkpoint that a forward pass may change: those of modules in training mode."""
    saved = model.state_dict().keys()
    buffers = []
    for prefix, module in model.named_modules():
        if module.training:
            named = module.named_buffers(prefix, recurse=False)
            buffers += [buffer for name, buffer in named if name in saved]
    return buffers
