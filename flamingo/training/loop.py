"""The training loop: next batches -> gradients -> step, with a history, samples, and a state to resume from."""

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import nn
from tqdm.auto import tqdm

from flamingo.results import History
from flamingo.training import TrainingConfig
from flamingo.training.interrupt import deferred_interrupt
from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import lr_factor, make_schedule
from flamingo.training.state import StateFolder, untouched_random_states
from flamingo.training.step import (
    DataSet,
    accumulate_gradients,
    next_update,
    not_finite,
    total,
)
from flamingo.utils.errors import Stopped, UserError


def train(
    model: nn.Module,
    data_sets: Sequence[DataSet],
    optimizer_config: OptimizerConfig,
    training_config: TrainingConfig,
    output: Path,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    on_sample: Callable[[int], None] | None = None,
    on_save: Callable[[], None] | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Train what has ``requires_grad``, going on from the newest state in ``output / "state"``, if there is one.

    ``model`` is trained in place and left in evaluation mode; to save it is the caller's part. The main
    process appends to ``output / "history.jsonl"`` and hands each record to ``on_log`` (again those of the
    steps that a resumed run repeats); it also calls
    ``on_sample`` with the number of steps done, while the model is in evaluation mode; what that draws
    at random is nothing to the training. The first Ctrl-C or SIGTERM ends the run after its current step, with a
    state (:class:`Stopped`); a second one at once. Raises UserError for data sets or a state that do not fit, and
    UserError, before the weights change, where a loss or the gradient is not finite.
    """
    config = training_config
    _check_names(data_sets)
    # Autocast is ours to enter: accelerate would fix one precision for all runs of a process.
    accelerator = accelerator or Accelerator(mixed_precision="no")
    _check_accelerator(accelerator)
    set_seed(config.seed, device_specific=True)
    optimizer = make_optimizer(model, optimizer_config)
    schedule = make_schedule(optimizer, optimizer_config, config.steps)
    parallel, _ = accelerator.prepare(model, optimizer)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = StateFolder(
        output / "state",
        _identity(data_sets, optimizer_config, config),
        model,
        optimizer,
        schedule,
        data_sets,
        accelerator,
    )
    progress = states.restore()
    if progress.step == config.steps:
        model.eval()
        return
    history = History(output / "history.jsonl")
    if accelerator.is_main_process:
        history.keep_until(progress.step)
    begin = time.monotonic() - progress.seconds
    bar = tqdm(total=config.steps, initial=progress.step, unit="step", disable=not accelerator.is_main_process)

    optimizer.zero_grad()  # of whatever was done with the model before
    model.train()
    with bar, deferred_interrupt() as interrupt:
        # Inside the guard, so that the workers of a data loader survive Ctrl-C, too.
        iterators = {data_set.name: iter(data_set.batches) for data_set in data_sets}
        while progress.step < config.steps:
            step = progress.step + 1
            update = next_update(data_sets, iterators, step, config.accumulate, config.mixing, accelerator)
            losses = accumulate_gradients(parallel, update, accelerator, config.precision, step)
            norm = float(accelerator.clip_grad_norm_(parameters, optimizer_config.max_grad_norm))
            if not math.isfinite(norm):
                raise not_finite("gradient", step, update.ids(), accelerator)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

            progress = replace(
                progress,
                step=step,
                tokens=progress.tokens + sum(update.tokens.values()),
                seconds=time.monotonic() - begin,
                losses={**progress.losses, **losses},
            )
            loss = sum(d.weight * losses[d.name] for d in data_sets if d.name in losses)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if config.due(config.log_every, step) and accelerator.is_main_process:
                record = {
                    "step": step,
                    "loss": loss,
                    **{f"loss/{name}": value for name, value in progress.losses.items()},
                    "rate": optimizer_config.lr * lr_factor(optimizer_config, step, config.steps),
                    "gradient_norm": norm,
                    "gates": gate_values(model),
                    "tokens": progress.tokens,
                    "seconds": progress.seconds,
                }
                history.append(record)
                if on_log is not None:
                    on_log(record)
            if on_sample is not None and config.due(config.sample_every, step):
                if accelerator.is_main_process:
                    model.eval()
                    with untouched_random_states():
                        on_sample(step)
                    model.train()
                accelerator.wait_for_everyone()
            # Last of all: what a killed run has not finished is done again when it is resumed.
            stop = total({"interrupted": float(interrupt.signal is not None)}, accelerator)["interrupted"] > 0
            if stop or config.due(config.save_every, step):
                if accelerator.is_main_process:
                    history.sync()
                folder = states.save(progress)
                if on_save is not None and accelerator.is_main_process:
                    on_save()
            if stop:
                raise Stopped(
                    f"Stopped after step {step}, with a state in {folder}: start the same command again to continue.",
                    interrupt.signal or signal.SIGINT,
                )
    model.eval()


@torch.no_grad()
def gate_values(model: nn.Module) -> dict[str, float]:
    """tanh of each gate, as ``<layer>.attention`` and ``<layer>.feedforward``; of a vector the mean magnitude."""
    values = {}
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            gate = torch.tanh(parameter.float())
            short = name.removeprefix("gated_layers.").removesuffix("_gate")
            values[short] = gate.item() if gate.numel() == 1 else gate.abs().mean().item()
    return values


def _check_names(data_sets: Sequence[DataSet]) -> None:
    names = [data_set.name for data_set in data_sets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"training needs data sets, each with a name of its own; got {names}")


def _check_accelerator(accelerator: Accelerator) -> None:
    if accelerator.mixed_precision != "no" or accelerator.gradient_accumulation_steps != 1:
        raise ValueError("the accelerator must neither set a precision nor accumulate: TrainingConfig says both")
    # A state would hold one process's shards only.
    whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in whole:
        raise UserError(f"{accelerator.distributed_type} is not supported: every process needs the whole model")


def _identity(
    data_sets: Sequence[DataSet], optimizer_config: OptimizerConfig, config: TrainingConfig
) -> dict[str, Any]:
    """What a state must share with the run that goes on from it; how often it logs is not among it."""
    keys = ("steps", "accumulate", "mixing", "precision", "seed")
    return {
        # In their order, which is that of their turns.
        "data sets": [f"{data_set.name} with weight {data_set.weight}" for data_set in data_sets],
        "optimizer": asdict(optimizer_config),
        "training": {key: getattr(config, key) for key in keys},
    }
