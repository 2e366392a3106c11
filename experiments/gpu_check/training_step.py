"""Part: a training step of Flamingo-3B: speed, share of the peak, memory and synchronisations."""

import statistics
from collections import defaultdict
from dataclasses import dataclass

import torch

from experiments.benchmark.flops import training_step
from experiments.benchmark.shapes import Shape
from experiments.gpu_check.big_model import (
    FLAMINGO_3B,
    TINY,
    BatchSize,
    build_model,
    build_processor,
    make_training_batch,
)
from experiments.gpu_check.check_parts import JSON, Save, Settings, SkippedError
from experiments.gpu_check.check_report import goal, table
from experiments.gpu_check.marks import Marks, Synchronisations, forget_peak_memory, peak_memory
from experiments.gpu_check.measured_training import BATCHES, fitting_rows, parts_marked, run_steps
from flamingo.utils.device_peaks import peak_tflops
from flamingo.utils.devices import use_device


@dataclass(frozen=True)
class Update:
    """The sizes of an update and the number of steps. The first steps do not count."""

    shape: Shape
    size: BatchSize
    warm_up: int
    timed: int
    #: The number of steps in which synchronisations are counted.
    watched: int


#: 16,384 tokens without padding.
FULL = Update(FLAMINGO_3B, BatchSize(rows=64, tokens=256, images=3), warm_up=3, timed=8, watched=2)
SMALL = Update(TINY, BatchSize(rows=4, tokens=32, images=3), warm_up=1, timed=2, watched=1)

#: The share of the device's peak that a step should reach.
_MFU_GOAL = 0.4

_CONVENTION = """
The arithmetic is what the model needs: 2 floating-point operations per weight and token in the frozen vision encoder,
4 in the frozen language model, 6 in the parts that train; attention is added, causal self-attention as one half.
Recomputation does not count. MFU is the arithmetic over the time and the dense bf16 peak of the device.
"""


def measure(settings: Settings, save: Save, compiled: bool = False) -> None:
    """Measures the step of the whole update in one batch, or in several if it does not fit into memory."""
    update = SMALL if settings.small else FULL
    device = use_device(settings.device)
    processor = build_processor(update.shape)
    model = build_model(update.shape, processor, device, torch.bfloat16)
    size = update.size

    def run(rows: int, accumulate: int) -> None:
        batch = make_training_batch(update.shape, processor, BatchSize(rows, size.tokens, size.images))
        marks = Marks(device)
        waits = Synchronisations(device)
        forget_peak_memory(device)

        def on_step(step: int) -> None:
            marks.add(BATCHES)
            if step == update.warm_up + update.timed:
                waits.start()
            if step == update.warm_up + update.timed + update.watched:
                waits.stop()

        with parts_marked(model, marks):
            steps = update.warm_up + update.timed + update.watched
            run_steps(model, processor, batch, accumulate, steps, on_step, compiled)
        values = _values(update, marks, waits, device)
        values["batches"] = accumulate
        values["peak_memory_gb"] = peak_memory(device)
        measured.update(values)

    measured: JSON = {}
    measured["rows_that_do_not_fit"] = fitting_rows(size.rows, run)
    save(measured, describe(update, measured))


def measure_compiled(settings: Settings, save: Save) -> None:
    """Measures the same step with compiled layers.

    Raises:
        SkippedError: On a CPU, where compilation takes minutes.
    """
    if use_device(settings.device).type == "cpu":
        raise SkippedError("on a CPU compilation takes minutes")
    measure(settings, save, compiled=True)


def _values(update: Update, marks: Marks, waits: Synchronisations, device: torch.device) -> JSON:
    """Returns the measured values: seconds, operations and shares."""
    steps = _by_step(marks.seconds())[update.warm_up : update.warm_up + update.timed]
    seconds_of_steps = [sum(step.values()) for step in steps]
    seconds = statistics.median(seconds_of_steps)
    seconds_of_parts = {}
    for name in steps[0]:
        seconds_of_parts[name] = statistics.median(step[name] for step in steps)
    size = update.size
    operations = training_step(update.shape, size.rows, size.tokens, size.images)
    tflop = sum(operations.values()) / 1e12
    peak = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return {
        "seconds": seconds,
        "fastest_and_slowest": [min(seconds_of_steps), max(seconds_of_steps)],
        "seconds_of_parts": seconds_of_parts,
        "tokens_per_second": size.rows * size.tokens / seconds,
        "images_per_second": size.rows * size.images / seconds,
        "tflop": tflop,
        "tflop_of_parts": {name: number / 1e12 for name, number in operations.items()},
        "tflops": tflop / seconds,
        "peak_tflops": peak,
        "mfu": None if peak is None else tflop / seconds / peak,
        # A CPU has none to count. A test counts the calls that would synchronise.
        "synchronisations_per_step": sum(waits.places.values()) / update.watched if device.type == "cuda" else None,
        "synchronisations_by_place": {place: number / update.watched for place, number in waits.places.items()},
    }


def _by_step(intervals: list[tuple[str, float]]) -> list[dict[str, float]]:
    """Returns the seconds of the parts of each step."""
    steps: list[dict[str, float]] = []
    for name, seconds in intervals:
        if name == BATCHES:
            steps.append(defaultdict(float))
        steps[-1][name] += seconds
    return steps


def describe(update: Update, measured: JSON) -> str:
    """Returns the section of the report."""
    size = update.size
    mfu = "unknown: the device's peak is not known"
    if measured["mfu"] is not None:
        mfu = f"{measured['mfu']:.1%} of {measured['peak_tflops']:g} TFLOP/s"
    memory = measured["peak_memory_gb"]
    synchronisations = measured["synchronisations_per_step"]
    least, most = measured["fastest_and_slowest"]
    rows: list[tuple[object, ...]] = [
        ("seconds a step, median (least to most)", f"{measured['seconds']:.4f} ({least:.4f} to {most:.4f})"),
        ("text tokens/s", f"{measured['tokens_per_second']:.0f}"),
        ("images/s", f"{measured['images_per_second']:.1f}"),
        ("TFLOP a step", f"{measured['tflop']:.4g}"),
        ("TFLOP/s", f"{measured['tflops']:.4g}"),
        ("MFU", mfu),
        ("peak memory, GB", "-" if memory is None else f"{memory:.1f}"),
        ("batches of an update", measured["batches"]),
        ("rows of a batch that do not fit", measured["rows_that_do_not_fit"] or "-"),
        ("synchronisations a step", "-" if synchronisations is None else f"{synchronisations:g}"),
    ]
    text = (
        f"An update of {size.rows} rows of {size.tokens} tokens and {size.images} images, "
        "bf16 autocast, frozen weights in bf16, trained ones and AdamW in fp32, no gradient checkpointing.\n\n"
    )
    text += table(("", "value"), rows)
    if measured["mfu"] is not None:
        text += goal("MFU", measured["mfu"], _MFU_GOAL)
    text += _CONVENTION
    parts = [(name, f"{1e3 * seconds:.1f}") for name, seconds in measured["seconds_of_parts"].items()]
    text += "\n" + table(("part of a step", "ms"), parts)
    operations = [(name, f"{number:.4g}") for name, number in measured["tflop_of_parts"].items()]
    text += "\n" + table(("part of the arithmetic", "TFLOP"), operations)
    places = [(f"`{place}`", f"{number:g}") for place, number in measured["synchronisations_by_place"].items()]
    if places:
        text += "\n" + table(("the host waits at", "a step"), places)
    return text
