"""The training loop: next batches -> gradients -> step, with a history, samples, and a state to resume from."""

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flamingo.results import History
from flamingo.training import TrainingConfig
from flamingo.training.callbacks import NO_CALLBACKS, Callbacks
from flamingo.training.guard import Guard
from flamingo.training.host_sums import host_sums
from flamingo.training.interrupt import Interrupt, deferred_interrupt
from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import LRFactor, factor_of, lengthen, make_schedule
from flamingo.training.state import Progress, StateFolder, untouched_random_states
from flamingo.training.step import DataSet, Update, accumulate_gradients, next_update
from flamingo.utils.devices import wait_for_processes
from flamingo.utils.errors import Stopped, UserError
from flamingo.utils.names import short_name
from flamingo.utils.progress import progress_bar

log = logging.getLogger(__name__)

#: Every process has the whole model: a state contains the parameters of one process only.
_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
#: The keys of a training's config that a state shares with the run that resumes from it.
_IDENTITY_KEYS = ("steps", "accumulate", "mixing", "precision", "seed")


@dataclass
class _Parts:
    """The model as the processes share it, the optimizer with its schedule, and the folder of states."""

    parallel: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    states: StateFolder

    @property
    def lr_factor(self) -> LRFactor:
        return factor_of(self.schedule)


def train(
    model: nn.Module,
    data_sets: Sequence[DataSet],
    optimizer_config: OptimizerConfig,
    config: TrainingConfig,
    output: Path,
    callbacks: Callbacks = NO_CALLBACKS,
    accelerator: Accelerator | None = None,
) -> None:
    """Trains the parameters that have ``requires_grad``, resuming from the newest state in ``output / "state"``.

    The state may belong to a training of fewer steps, even a finished one. With a constant learning rate the result
    equals that of a training with these steps from its start. With a cosine a new decay begins.

    ``model`` is trained in place and left in evaluation mode; the caller saves it. The main process appends records
    to ``output / "history.jsonl"``. The first Ctrl-C or SIGTERM ends the run after its current step, a second one at
    once.

    Args:
        model: The model.
        data_sets: The data sets, with different names.
        optimizer_config: The optimizer and its schedule.
        config: The number of steps, the size of an update, and the intervals of logs, states and samples.
        output: The folder of the run.
        callbacks: Functions that the main process calls.
        accelerator: The processes; None: those of this run.

    Raises:
        Stopped: After the first signal, with a state saved.
        UserError: If data sets or a state do not fit, or a loss or gradient is not finite. A step that is not finite
            and later ones change nothing, and the run stops before it writes the next record, sample or state.
    """  # noqa: DOC501 _stopped is a function that returns Stopped
    # This module enters autocast itself: accelerate would fix one precision for all runs of a process.
    accelerator = accelerator or Accelerator(mixed_precision="no")
    parts = _prepare(model, data_sets, optimizer_config, config, output, accelerator)
    progress = parts.states.restore()
    if progress.step == config.steps:
        model.eval()
        return
    if parts.lr_factor.steps < config.steps:
        _lengthen(parts, progress.step, config.steps, optimizer_config.lr)
    main_process = accelerator.is_main_process
    history = _open_history(output, progress, accelerator)
    start = time.monotonic() - progress.seconds
    name = short_name(output)
    bar = progress_bar(config.steps, "step", visible=main_process, initial=progress.step, description=name)
    model.train()
    guard = Guard(model, accelerator)
    with bar, deferred_interrupt() as interrupt:
        # Start iterators after signals are deferred, so that the workers of a data loader also survive Ctrl-C.
        iterators = {data_set.name: iter(data_set.batches) for data_set in data_sets}
        while progress.step < config.steps:
            step = progress.step + 1
            update = next_update(data_sets, iterators, step, config.accumulate, config.mixing, accelerator)
            _take_step(model, parts, guard, step, update, optimizer_config.max_grad_norm, config.precision, accelerator)
            progress = progress.after(update)
            bar.update()
            if config.due(config.log_every, step):
                progress = progress.measured(guard.read(), time.monotonic() - start)
                loss = update.weighted_loss(progress.losses)
                bar.set_postfix(loss=f"{loss:.3f}")
                if main_process:
                    values = _learning_rate(optimizer_config, parts.lr_factor, step)
                    _log(history, callbacks, model, progress, loss, values | {"gradient_norm": guard.gradient_norm})
            if callbacks.on_sample is not None and config.due(config.sample_every, step):
                progress = progress.measured(guard.read(), time.monotonic() - start)
                _sample(model, callbacks, step, accelerator)
            # Saving comes last: a resumed run repeats what a killed run has not finished.
            stops = _any_interrupted(interrupt, accelerator)
            if stops or config.due(config.save_every, step):
                progress = progress.measured(guard.read(), time.monotonic() - start)
                folder = _save(parts.states, progress, history, callbacks, accelerator)
            if stops:
                raise _stopped(step, folder, interrupt)
    model.eval()


def _prepare(
    model: nn.Module,
    data_sets: Sequence[DataSet],
    optimizer_config: OptimizerConfig,
    config: TrainingConfig,
    output: Path,
    accelerator: Accelerator,
) -> _Parts:
    _check(data_sets, accelerator)
    set_seed(config.seed, device_specific=True)
    optimizer = make_optimizer(model, optimizer_config)
    optimizer.zero_grad()  # the caller may have left gradients
    schedule = make_schedule(optimizer, optimizer_config, config.steps)
    parallel, _ = accelerator.prepare(model, optimizer)
    identity = _identity(data_sets, optimizer_config, config)
    states = StateFolder(output / "state", identity, model, optimizer, schedule, data_sets, accelerator)
    return _Parts(parallel, optimizer, schedule, states)


def _lengthen(parts: _Parts, done: int, steps: int, lr: float) -> None:
    """Extends the schedule of a shorter training to more steps."""
    log.info("training longer: %d steps are done of now %d", done, steps)
    lengthen(parts.schedule, done, steps)
    if parts.lr_factor.decays_again:
        log.info("a new decay begins at the learning rate %g", lr * parts.lr_factor.decay_from)


def _open_history(output: Path, progress: Progress, accelerator: Accelerator) -> History:
    """Returns the run's history, without the records of steps that will be repeated."""
    history = History(output / "history.jsonl")
    if accelerator.is_main_process:
        history.keep_until(progress.step)
    return history


def _take_step(
    model: nn.Module,
    parts: _Parts,
    guard: Guard,
    step: int,
    update: Update,
    max_grad_norm: float,
    precision: str,
    accelerator: Accelerator,
) -> None:
    """Changes the weights by the clipped gradient of an update, without waiting for the device."""
    guard.begin()
    losses = accumulate_gradients(parts.parallel, update, accelerator, precision)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = accelerator.clip_grad_norm_(parameters, max_grad_norm)
    guard.end(step, update, losses, norm)
    parts.optimizer.found_inf = guard.found  # type: ignore[attr-defined]  # missing in the stubs of torch
    parts.optimizer.step()
    parts.schedule.step()
    parts.optimizer.zero_grad()


def _learning_rate(config: OptimizerConfig, factor: LRFactor, step: int) -> dict[str, float]:
    """Returns the learning rate of a step, and the start of its decay if it is not the first decay."""
    values = {"lr": config.lr * factor.at(step)}
    if factor.decays_again:
        values["decay_start"] = factor.decay_start
        values["decay_from_lr"] = config.lr * factor.decay_from
    return values


def _log(
    history: History,
    callbacks: Callbacks,
    model: nn.Module,
    progress: Progress,
    loss: float,
    values: dict[str, float],
) -> None:
    """Appends a record to the history, with the last loss of each data set."""
    record: dict[str, Any] = {"step": progress.step, "loss": loss}
    for name, loss_of_data_set in progress.losses.items():
        record[f"loss/{name}"] = loss_of_data_set
    record.update(values)
    for measure in callbacks.measures:
        record.update(measure(model))
    record["tokens"] = progress.tokens
    if progress.dropped_images > 0:
        record["dropped_images"] = progress.dropped_images
    record["seconds"] = progress.seconds
    history.append(record)
    if callbacks.on_log is not None:
        callbacks.on_log(record)


def _sample(model: nn.Module, callbacks: Callbacks, step: int, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        assert callbacks.on_sample is not None
        model.eval()
        with untouched_random_states():
            callbacks.on_sample(step)
        model.train()
    wait_for_processes()


def _save(
    states: StateFolder, progress: Progress, history: History, callbacks: Callbacks, accelerator: Accelerator
) -> Path:
    """Returns the folder of a saved state. The records of its steps are on disk before it."""
    if accelerator.is_main_process:
        history.sync()
    folder = states.save(progress)
    if accelerator.is_main_process and callbacks.on_save is not None:
        callbacks.on_save()
    return folder


def _any_interrupted(interrupt: Interrupt, accelerator: Accelerator) -> bool:
    """Returns whether a signal has reached any of the processes, which then stop together."""
    interrupted = float(interrupt.signal is not None)
    return host_sums({"interrupted": interrupted}, accelerator)["interrupted"] > 0


def _stopped(step: int, folder: Path, interrupt: Interrupt) -> Stopped:
    message = f"Stopped after step {step}, with a state in {folder}: start the same command again to continue."
    return Stopped(message, interrupt.signal or signal.SIGINT)


def _check(data_sets: Sequence[DataSet], accelerator: Accelerator) -> None:
    names = [data_set.name for data_set in data_sets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"training needs data sets with different names; got {names}")
    if accelerator.mixed_precision != "no" or accelerator.gradient_accumulation_steps != 1:
        raise ValueError("the accelerator must neither set a precision nor accumulate: TrainingConfig has both")
    if accelerator.distributed_type not in _SUPPORTED:
        raise UserError(f"{accelerator.distributed_type} is not supported: every process needs the whole model")


def _identity(
    data_sets: Sequence[DataSet], optimizer_config: OptimizerConfig, config: TrainingConfig
) -> dict[str, Any]:
    """Returns the settings that a state shares with the run that resumes from it."""
    return {
        # round_robin depends on the order of the data sets.
        "data sets": [f"{data_set.name} with weight {data_set.weight}" for data_set in data_sets],
        "optimizer": asdict(optimizer_config),
        "training": {key: getattr(config, key) for key in _IDENTITY_KEYS},
    }
