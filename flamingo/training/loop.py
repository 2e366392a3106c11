"""The training loop: next batches -> gradients -> step, with a history, samples, and a state to resume from."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import nn

from flamingo.data.drops import Drops, counts_text
from flamingo.history import History
from flamingo.model.compilation import compile_layers
from flamingo.training import DEFAULT_PARALLEL, ParallelConfig, TrainingConfig
from flamingo.training.activations import recompute_activations
from flamingo.training.callbacks import NO_CALLBACKS, Callbacks
from flamingo.training.guard import Guard
from flamingo.training.host_sums import host_counts
from flamingo.training.interrupt import deferred_interrupt
from flamingo.training.monitoring import NO_MONITORING, Monitoring
from flamingo.training.optim import OptimizerConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import LRFactor, factor_of, lengthen, make_schedule
from flamingo.training.parallel import distribute
from flamingo.training.random_states import untouched_random_states
from flamingo.training.sharding import gathered
from flamingo.training.speed import Speed
from flamingo.training.state import StateFolder
from flamingo.training.step import DataSet, Update, accumulate_gradients, next_update
from flamingo.training.validation import held_out_losses
from flamingo.utils.devices import processes, wait_for_processes
from flamingo.utils.errors import Stopped
from flamingo.utils.names import short_name
from flamingo.utils.process_group import leave_at_exit
from flamingo.utils.progress import progress_bar

log = logging.getLogger(__name__)

#: The keys of a training's config that a state shares with the run that resumes from it.
_IDENTITY_KEYS = ("steps", "accumulate", "mixing", "precision", "seed")


def train(
    model: nn.Module,
    data_sets: Sequence[DataSet],
    optimizer_config: OptimizerConfig,
    config: TrainingConfig,
    output: Path,
    callbacks: Callbacks = NO_CALLBACKS,
    parallel: ParallelConfig = DEFAULT_PARALLEL,
    monitoring: Monitoring = NO_MONITORING,
) -> None:
    """Trains the parameters that have ``requires_grad``, resuming from the newest state in ``output / "state"``.

    The state may be of a training of fewer steps, also of a finished one. With a constant learning rate the result is
    that of a training which has these steps from its start. With a cosine a new decay begins.

    ``model`` is trained in place and left in evaluation mode; the caller saves it. The main process appends records
    to ``output / "history.jsonl"``. The first Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2 that reaches any process ends the run
    after the current step of all processes, a second one at once.

    Args:
        model: The model.
        data_sets: The data sets, with different names.
        optimizer_config: The optimizer and its schedule.
        config: The number of steps, the size of an update, and the intervals of logs, states and samples.
        output: The folder of the run.
        callbacks: Functions that the main process calls.
        parallel: How the processes of this run share the model.
        monitoring: What is measured besides the loss.

    Raises:
        Stopped: After the first signal, with a state saved.
        UserError: If data sets or a state do not fit, or a loss or gradient is not finite. A step that is not finite
            and later ones change nothing, and the run stops before it writes the next record, sample or state.
    """  # noqa: DOC501 _stopped is a function that returns Stopped
    run = _Run(model, data_sets, optimizer_config, config, output, callbacks, parallel, monitoring)
    if run.progress.step == config.steps:
        model.eval()
        return
    main_process, name = processes().is_main_process, short_name(output)
    bar = progress_bar(config.steps, "step", visible=main_process, initial=run.progress.step, description=name)
    model.train()
    with bar, deferred_interrupt() as interrupt, run.states:
        # Start iterators after signals are deferred, so that the workers of a data loader also survive Ctrl-C.
        run.begin()
        while run.progress.step < config.steps:
            step = run.progress.step + 1
            update = run.take_step(step)
            with run.speed.logging():
                bar.update()
            validates = len(monitoring.held_out) > 0 and config.due(config.validation_every, step)
            if validates or config.due(config.log_every, step):
                shown = run.record(update, validates)
                with run.speed.logging():
                    bar.set_postfix(shown)
            if callbacks.on_sample is not None and config.due(config.sample_every, step):
                run.sample()
            # Saving comes last: a resumed run repeats what a killed run has not finished.
            signal_number = interrupt.agreed()
            if signal_number is not None or config.due(config.save_every, step):
                folder = run.save()
            if signal_number is not None:
                run.finish_saving()
                leave_at_exit()
                raise _stopped(step, folder, signal_number)
        run.finish_saving()
    if main_process and run.progress.drops:
        log.info("left out: %s", counts_text(Counter(run.progress.drops)))
    model.eval()


class _Run:
    """A training: its model, optimizer, history and states, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        data_sets: Sequence[DataSet],
        optimizer_config: OptimizerConfig,
        config: TrainingConfig,
        output: Path,
        callbacks: Callbacks,
        parallel: ParallelConfig,
        monitoring: Monitoring,
    ) -> None:
        """Prepares the training, and restores the newest state. For the arguments see :func:`train`."""
        _check(data_sets)
        set_seed(config.seed + processes().process_index)
        self.model, self.data_sets, self.config = model, data_sets, config
        self.optimizer_config = optimizer_config
        self.callbacks, self.monitoring = callbacks, monitoring
        if config.checkpointing:
            recompute_activations(model)
        if config.compile:
            compile_layers(model)
        #: The model as the processes share it.
        self.parallel = distribute(model, parallel, config.precision)
        self.optimizer = make_optimizer(model, optimizer_config)
        self.optimizer.zero_grad()  # the caller may have left gradients
        self.schedule = make_schedule(self.optimizer, optimizer_config, config.steps)
        identity = _identity(data_sets, optimizer_config, config)
        folder = output / "state"
        self.states = StateFolder(folder, identity, model, self.optimizer, self.schedule, data_sets, config.keep_every)
        self.progress = self.states.restore()
        if self.lr_factor.steps < config.steps and self.progress.step < config.steps:
            self._lengthen()
        self.history = History(output / "history.jsonl")
        #: What streamed samples of this process lost since the last measurement, by reason.
        self._drops: Drops = Counter()

    @property
    def lr_factor(self) -> LRFactor:
        return factor_of(self.schedule)

    def _lengthen(self) -> None:
        """Extends the schedule of a shorter training to more steps."""
        log.info("training longer: %d steps are done of now %d", self.progress.step, self.config.steps)
        lengthen(self.schedule, self.progress.step, self.config.steps)
        if self.lr_factor.decays_again:
            lr = self.optimizer_config.lr * self.lr_factor.decay_from
            log.info("a new decay begins at the learning rate %g", lr)

    def begin(self) -> None:
        """Starts the clock, the guard and the data, and drops the records of steps that will be repeated."""
        if processes().is_main_process:
            self.history.keep_until(self.progress.step)
        self._start = time.monotonic() - self.progress.seconds
        self._guard = Guard(self.parallel)
        self._iterators = {data_set.name: iter(data_set.batches) for data_set in self.data_sets}
        state = processes()
        self.speed = Speed(state.device, self.config.precision, state.num_processes, self.monitoring.flops)

    def take_step(self, step: int) -> Update:
        """Changes the weights by the clipped gradient of an update, without waiting for the device.

        Returns:
            The update.
        """
        config, guard, speed = self.config, self._guard, self.speed
        with speed.part("data"):
            mixing, accumulate = config.mixing, config.accumulate
            update = next_update(self.data_sets, self._iterators, step, accumulate, mixing)
        guard.begin()
        losses = accumulate_gradients(self.parallel, update, config.precision, speed)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with speed.part("optimizer"):
            norm = self.parallel.clip(parameters, self.optimizer_config.max_grad_norm)
            guard.end(step, update, losses, norm)
            self.optimizer.found_inf = guard.found  # type: ignore[attr-defined]  # missing in the stubs of torch
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        speed.step(update.sizes)
        self.progress = self.progress.after(update)
        self._drops.update(update.drops)
        return update

    def record(self, update: Update, validates: bool) -> dict[str, str]:
        """Appends a record to the history.

        Args:
            update: The update of the last step.
            validates: Whether the loss of held-out documents is measured.

        Returns:
            The values that the progress bar shows.
        """
        self._measure()
        with self.speed.logging():
            values: dict[str, Any] = self._learning_rate() | {"gradient_norm": self._guard.gradient_norm}
            values |= self.speed.values()
        if validates:
            with self.speed.paused():
                values |= held_out_losses(self.parallel, self.monitoring.held_out, self.config.precision)
        with self.speed.logging():
            for measure in self.callbacks.measures:
                values |= measure(self.model)
        loss = update.weighted_loss(self.progress.losses)
        if processes().is_main_process:
            with self.speed.logging():
                self._append(loss, values)
        shown = {"loss": f"{loss:.3f}", "tokens/s": f"{values['tokens_per_second']:,.0f}"}
        held_out = [value for name, value in values.items() if name.startswith("held_out_loss/")]
        if held_out:
            shown["held out"] = f"{sum(held_out) / len(held_out):.3f}"
        return shown

    def _measure(self) -> None:
        """Reads the losses from the device, and adds the drops of all processes."""
        losses = self._guard.read()
        drops = host_counts(self._drops)
        self._drops = Counter()
        self.progress = self.progress.measured(losses, drops, time.monotonic() - self._start)

    def _learning_rate(self) -> dict[str, float]:
        """Returns the learning rate of the last step, and the start of its decay if it is not the first decay."""
        lr, factor = self.optimizer_config.lr, self.lr_factor
        values = {"lr": lr * factor.at(self.progress.step)}
        if factor.decays_again:
            values["decay_start"] = factor.decay_start
            values["decay_from_lr"] = lr * factor.decay_from
        return values

    def _append(self, loss: float, values: dict[str, Any]) -> None:
        """Appends a record, with the last loss of each data set."""
        progress = self.progress
        record: dict[str, Any] = {"step": progress.step, "loss": loss}
        for name, loss_of_data_set in progress.losses.items():
            record[f"loss/{name}"] = loss_of_data_set
        record.update(values)
        record["tokens"] = progress.tokens
        if progress.dropped_images > 0:
            record["dropped_images"] = progress.dropped_images
        for reason, number in sorted(progress.drops.items()):
            record[f"dropped/{reason}"] = number
        record["seconds"] = progress.seconds
        self.history.append(record)
        if progress.tokens == 0:
            reasons = counts_text(Counter(progress.drops))
            log.warning("step %d: no token has been trained on so far; left out: %s", progress.step, reasons)
        if self.callbacks.on_log is not None:
            self.callbacks.on_log(record)

    def sample(self) -> None:
        """Lets the main process make samples."""
        self._measure()
        with self.speed.paused(), gathered(self.model):
            if processes().is_main_process:
                assert self.callbacks.on_sample is not None
                self.model.eval()
                with untouched_random_states():
                    self.callbacks.on_sample(self.progress.step)
                self.model.train()
            wait_for_processes()

    def save(self) -> Path:
        """Returns the folder of a state that a thread writes. The records of its steps are on disk before it."""
        self._measure()
        with self.speed.paused():
            self.finish_saving()
            if processes().is_main_process:
                self.history.sync()
            return self.states.save(self.progress)

    def finish_saving(self) -> None:
        """Waits until the last state is complete."""
        was_saving = self.states.finish()
        if was_saving and processes().is_main_process and self.callbacks.on_save is not None:
            self.callbacks.on_save()


def _stopped(step: int, folder: Path, signal_number: int) -> Stopped:
    message = f"Stopped after step {step}, with a state in {folder}: start the same command again to continue."
    return Stopped(message, signal_number)


def _check(data_sets: Sequence[DataSet]) -> None:
    names = [data_set.name for data_set in data_sets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"training needs data sets with different names; got {names}")


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
