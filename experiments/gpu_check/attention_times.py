"""Part: the kernels of packed rows and of token-to-image attention, of one layer of the 3B shape."""

from dataclasses import asdict

from experiments.benchmark.attention_kernels import Timing, measure_all
from experiments.gpu_check.check_parts import JSON, Save, Settings
from experiments.gpu_check.check_report import table
from flamingo.utils.devices import use_device


def measure(settings: Settings, save: Save) -> None:
    """Measures all kernels, and records each at once."""
    timings: list[Timing] = []
    for timing in measure_all(use_device(settings.device), heads=32, head_dim=64, rounds=1 if settings.small else 10):
        timings.append(timing)
        measured: JSON = {"timings": [asdict(one) for one in timings]}
        save(measured, describe(timings))


def describe(timings: list[Timing]) -> str:
    """Returns the section of the report."""
    rows = []
    for timing in timings:
        both = "-" if timing.both is None else f"{timing.both:.3f}"
        name = f"{timing.rows}: {timing.kernel}"
        rows.append((name, f"{timing.once:.3f}", f"{timing.forward:.3f}", both, f"{timing.difference:.1e}"))
    header = ("kernel", "once a batch, ms", "forward, ms", "with backward, ms", "largest difference")
    text = "Kernels of `training.packed_attention`, and ways of attention from tokens to their image, of one layer.\n\n"
    return text + table(header, rows)
