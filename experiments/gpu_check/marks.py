"""Marks in the work of a device: the time between them, waits of the host, and memory."""

import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).parent.parent.parent


class Marks:
    """Named marks, each with the time at which the device reaches it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any]] = []

    def add(self, name: str) -> None:
        """Marks the start of the work ``name``. The host does not wait."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def seconds(self) -> list[tuple[str, float]]:
        """Waits for the device.

        Returns:
            Each name with the seconds up to the next mark.
        """
        synchronize(self._device)
        intervals = []
        for (name, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds = begin.elapsed_time(end) / 1e3 if self._device.type == "cuda" else end - begin
            intervals.append((name, seconds))
        return intervals


def synchronize(device: torch.device) -> None:
    """Waits until a CUDA device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak_memory(device: torch.device) -> None:
    """Starts a new measurement of :func:`peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """Returns the peak memory of all tensors in GB (1e9 bytes); None without a CUDA device."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


class Synchronisations:
    """Counts where the host waits for a CUDA device, by ``torch.cuda.set_sync_debug_mode``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        #: The counts by the innermost line of this project and the line of a library that it calls.
        self.places: Counter[str] = Counter()
        self._caught = warnings.catch_warnings()

    def start(self) -> None:
        """Starts to count. Without a CUDA device it does nothing."""
        if self._device.type == "cuda":
            self._caught.__enter__()
            warnings.simplefilter("always")
            warnings.showwarning = self._record  # type: ignore[assignment]  # takes any arguments
            torch.cuda.set_sync_debug_mode("warn")

    def stop(self) -> None:
        """Stops to count."""
        if self._device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)

    def _record(self, message: Any, *others: Any) -> None:
        if "synchroniz" in str(message):
            stack = [frame for frame in traceback.extract_stack()[:-1] if frame.filename != warnings.__file__]
            self.places[_place(stack)] += 1


def _place(stack: list[traceback.FrameSummary]) -> str:
    """Returns the innermost frame of this project, and the innermost frame of all if it is another one."""
    innermost = _location(stack[-1])
    for frame in reversed(stack):
        if Path(frame.filename).is_relative_to(_ROOT) and "site-packages" not in frame.filename:
            own = _location(frame)
            return own if own == innermost else f"{own} -> {innermost}"
    return innermost


def _location(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    name = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else Path(*path.parts[-3:])
    return f"{name}:{frame.lineno} {frame.name}"
