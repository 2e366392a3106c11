"""Steps of a training -> seconds of their parts, tokens and images a second, and the share of the device's peak."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from flamingo.data.batch_sizes import BatchSizes
from flamingo.training.flops import TrainingFlops
from flamingo.utils.device_peaks import peak_tflops
from flamingo.utils.devices import HOST, DeviceTimer, device_title, peak_memory

#: The parts of a step. ``data`` is the time that the step waits for its batches.
PARTS = ("data", "forward", "backward", "optimizer")


class Speed:
    """Measures the steps since the last record. A step does not wait for the device."""

    def __init__(
        self, device: torch.device, precision: str = "fp32", num_processes: int = 1, flops: TrainingFlops | None = None
    ) -> None:
        """Starts the clock.

        Args:
            device: That of this process.
            precision: Of the training. Peaks are known for bf16 alone.
            num_processes: Processes with a device each.
            flops: The arithmetic of a step; None where it is not known.
        """
        self._device, self._num_processes, self._flops = device, num_processes, flops
        self._peak_tflops = peak_tflops(device_title(device)) if precision == "bf16" else None
        self._restart()

    def _restart(self) -> None:
        self._steps = 0
        self._sizes = BatchSizes()
        self._timers = {name: DeviceTimer(self._device) for name in PARTS}
        self._timers["data"] = DeviceTimer(HOST)
        self._logging_seconds = 0.0
        self._paused_seconds = 0.0
        self._start = time.perf_counter()

    def part(self, name: str) -> AbstractContextManager[None]:
        """Returns a context that times a part of a step."""
        return self._timers[name].running()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it, time belongs to no step: samples, states and held-out documents."""
        start = time.perf_counter()
        yield
        # The clock may have been restarted within it.
        self._paused_seconds += time.perf_counter() - max(start, self._start)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Within it, time belongs to the log: records, the tracker and the progress bar. It belongs to no step."""
        start = time.perf_counter()
        with self.paused():
            yield
        self._logging_seconds += time.perf_counter() - start

    def step(self, sizes: BatchSizes) -> None:
        """Counts a step whose batches, in all processes, have these sizes."""
        self._steps += 1
        self._sizes = self._sizes + sizes

    def values(self) -> dict[str, float | None]:
        """Returns the speed since the last call. The device must have finished the steps.

        Returns:
            ``tokens_per_second`` (padding apart) and ``images_per_second`` of all processes; ``time/PART``, the mean
            seconds of a step in this process; ``time/logging``, the seconds of the log for each step, with those of
            the record before; ``flops_per_second`` of all processes; ``mfu``, these as a share of the
            devices' peak, None where no peak is known; ``peak_memory`` of this process (bytes).
        """
        seconds = time.perf_counter() - self._start - self._paused_seconds
        values: dict[str, float | None] = {
            "tokens_per_second": self._sizes.tokens / seconds,
            "images_per_second": self._sizes.images / seconds,
        }
        for name, timer in self._timers.items():
            values[f"time/{name}"] = timer.seconds() / self._steps
        values["time/logging"] = self._logging_seconds / self._steps
        if self._flops is not None:
            flops_per_second = self._flops.of(self._sizes) / seconds
            values["flops_per_second"] = flops_per_second
            values["mfu"] = None
            if self._peak_tflops is not None:
                values["mfu"] = flops_per_second / (1e12 * self._peak_tflops * self._num_processes)
        values["peak_memory"] = peak_memory(self._device)
        self._restart()
        return values
