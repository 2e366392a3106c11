"""Runs a training in one process, or in several of an engine, and records what must be equal."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from flamingo.training import ParallelConfig, TrainingConfig
from flamingo.training.loop import train
from flamingo.training.optim import OptimizerConfig
from tests.helpers.forked import values_of_processes
from tests.training.parallel.cases import Training
from tests.training.runs import history

Tensors = dict[str, Tensor]


@dataclass
class Record:
    """What a training did: numbers of each step, clipped gradients of the first one, and weights at the end."""

    losses: list[float]
    norms: list[float]
    gradients: Tensors
    weights: Tensors


def run_alone(training: Training, optimizer: OptimizerConfig, steps: int, output: Path) -> Record:
    """Returns the record of one process, which is this one."""
    tensors = _train(training, ParallelConfig(), optimizer, steps, output)
    return _record(output, *tensors)


def run_together(
    size: int, training: Training, parallel: ParallelConfig, optimizer: OptimizerConfig, steps: int, output: Path
) -> Record:
    """Returns the record of several processes, whose tensors are the same bit for bit."""
    first, *others = values_of_processes(size, _train, training, parallel, optimizer, steps, output)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    return _record(output, *first)


def _train(
    training: Training, parallel: ParallelConfig, optimizer: OptimizerConfig, steps: int, output: Path
) -> tuple[Tensors, Tensors]:
    """Returns the gradients of the first step and the weights, in full."""
    model = deepcopy(training.model)
    gradients: Tensors = {}

    def note(*_: Any) -> None:
        if not gradients:
            gradients.update(_whole(model, lambda parameter: parameter.grad))

    config = TrainingConfig(steps=steps, accumulate=training.accumulate(), log_every=1, **training.config)
    hook = register_optimizer_step_pre_hook(note)
    try:
        train(model, training.data_sets(), optimizer, config, output, parallel=parallel)
    finally:
        hook.remove()
    return gradients, weights_of(model)


def weights_of(model: nn.Module) -> Tensors:
    """Returns the trained parameters in full. All processes of a sharded model call this together."""
    return _whole(model, lambda parameter: parameter)


def _whole(model: nn.Module, tensor_of: Any) -> Tensors:
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensor = tensor_of(parameter).detach()
            tensors[name] = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
    return tensors


def _record(output: Path, gradients: Tensors, weights: Tensors) -> Record:
    records = history(output)
    losses = [record["loss"] for record in records]
    norms = [record["gradient_norm"] for record in records]
    return Record(losses, norms, gradients, weights)
