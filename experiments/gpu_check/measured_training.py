"""Runs steps of the training loop on one batch, with a mark at the start of each part of a step."""

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from experiments.gpu_check.marks import Marks
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.collate import Batch
from flamingo.model.packed_attention import prepared_masks
from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig
from flamingo.training.step import DataSet
from flamingo.utils.devices import pins_memory

#: Names of the parts of a step. The first one starts when the loop asks for the batches of the step.
BATCHES, ENCODER, CONNECTOR, KEYS_VALUES, LANGUAGE, BACKWARD, OPTIMIZER, REST = (
    "batches to the device",
    "vision encoder",
    "connector",
    "keys and values of images",
    "language model with gated blocks, forward",
    "loss, backward, clipping",
    "optimizer",
    "rest",
)
#: More steps than any measurement runs, so the loop neither logs nor saves a state.
_NEVER = 10**6


class _EndOfStepsError(Exception):
    """Ends the loop after the last step, before it saves a state."""


class _OneBatch:
    """Yields the same batches in each step, and calls a function at the start of each step."""

    position = 0

    def __init__(self, batch: Batch, accumulate: int, steps: int, on_step: Callable[[int], None]) -> None:
        self._batch = batch
        self._accumulate = accumulate
        self._steps = steps
        self._on_step = on_step

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self._steps):
            self._on_step(step)
            for _ in range(self._accumulate):
                yield self._batch
        self._on_step(self._steps)
        raise _EndOfStepsError


def run_steps(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    batch: Batch,
    accumulate: int,
    steps: int,
    on_step: Callable[[int], None],
    compiled: bool = False,
) -> None:
    """Runs the training loop in bf16 with AdamW, without log lines.

    Args:
        model: The model, on its device.
        processor: Its processor.
        batch: The batch of all steps.
        accumulate: How often an update repeats the batch.
        steps: The number of updates.
        on_step: Called with 0, 1, ... before each step, and with ``steps`` after the last one.
        compiled: Whether the layers are compiled.
    """
    config = TrainingConfig(
        steps=_NEVER,
        accumulate=accumulate,
        precision="bf16",
        log_every=_NEVER,
        save_every=_NEVER,
        compile=compiled,
    )
    optimizer = AdamWConfig(lr=1e-6)
    if pins_memory(model.device):
        batch = batch.pin_memory()
    data_set = DataSet("batch", _OneBatch(batch, accumulate, steps, on_step), prepare=processor.normalized)
    with tempfile.TemporaryDirectory() as folder, prepared_masks(model, "dense"):
        try:
            train(model, [data_set], optimizer, config, Path(folder))
        except _EndOfStepsError:
            pass
        finally:
            model.zero_grad(set_to_none=True)


@contextmanager
def parts_marked(model: FlamingoForConditionalGeneration, marks: Marks) -> Iterator[None]:
    """Makes each part of a training step add its mark inside the block, except :data:`BATCHES`."""

    def mark(name: str) -> Callable[..., None]:
        return lambda *_: marks.add(name)

    with ExitStack() as stack:
        _around(stack, model.vision_model, mark(ENCODER), mark(REST))
        _around(stack, model.connector, mark(CONNECTOR), mark(KEYS_VALUES))
        _around(stack, model.language_model, mark(LANGUAGE), mark(BACKWARD))
        stack.callback(register_optimizer_step_pre_hook(mark(OPTIMIZER)).remove)
        stack.callback(register_optimizer_step_post_hook(mark(REST)).remove)
        yield


def _around(stack: ExitStack, module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
    handles: list[Any] = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    for handle in handles:
        stack.callback(handle.remove)


def fitting_rows(rows: int, run: Callable[[int, int], None]) -> list[int]:
    """Runs an update in one batch, or in the smallest number of batches that fits into memory.

    Args:
        rows: The rows of the update, a power of 2.
        run: Called with the rows of a batch and the number of batches of an update.

    Returns:
        The rows of the batches that did not fit.

    Raises:
        torch.OutOfMemoryError: If a batch of one row does not fit.
    """
    too_many: list[int] = []
    while True:
        rows_of_batch = rows >> len(too_many)
        try:
            run(rows_of_batch, rows // rows_of_batch)
            return too_many
        except torch.OutOfMemoryError:
            if rows_of_batch == 1:
                raise
        # Outside the handler, since the exception holds frames, which hold the tensors.
        too_many.append(rows_of_batch)
        release_memory()


def release_memory() -> None:
    """Returns unused memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
