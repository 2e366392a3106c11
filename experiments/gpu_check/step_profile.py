"""Part: a profile of the training step: the slowest kernels, the kinds of work, and how long the device is idle."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.gpu_check.big_model import BatchSize, build_model, build_processor, make_training_batch
from experiments.gpu_check.check_parts import JSON, Save, Settings, SkippedError
from experiments.gpu_check.check_report import table
from experiments.gpu_check.marks import synchronize
from experiments.gpu_check.measured_training import fitting_rows, run_steps
from experiments.gpu_check.training_step import FULL, SMALL
from flamingo.utils.devices import use_device

_PROFILED = 3
_NUM_KERNELS = 10
#: The largest number of characters of a kernel's name, which templates make long.
_NAME_LENGTH = 150
#: Kinds of kernels by patterns of their names. The first match counts.
_KINDS = {
    "attention": r"flash|fmha|sdpa|attention",
    "loss": r"softmax|nll_loss|cross_entropy",
    "products": r"gemm|cutlass|nvjet|cublas|splitk|linear|conv|addmm|\bb?mm",
    "optimizer and clipping": r"adam|multi_tensor|foreach",
    "indexing and sorting": r"index|gather|scatter|sort|radix|embedding",
    "norms and reductions": r"norm|gammabeta|reduce",
    "copies and casts": r"memcpy|memset|copy|cat",
    "pointwise": r"elementwise|pointwise|add|mul|where|relu|gelu|tanh",
}


@dataclass(frozen=True)
class Work:
    """A kernel, a copy, or on a CPU an operator, with its start and end in microseconds."""

    name: str
    start: float
    end: float


def measure(settings: Settings, save: Save) -> None:
    """Profiles some steps after a warm-up.

    Raises:
        SkippedError: If the profiler records no work of the device.
    """
    update = SMALL if settings.small else FULL
    device = use_device(settings.device)
    processor = build_processor(update.shape)
    model = build_model(update.shape, processor, device, torch.bfloat16)
    size = update.size
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    recorded: list[Work] = []

    def run(rows: int, accumulate: int) -> None:
        batch = make_training_batch(update.shape, processor, BatchSize(rows, size.tokens, size.images))
        profiler = profile(activities=activities)

        def on_step(step: int) -> None:
            if step in (update.warm_up, update.warm_up + _PROFILED):
                synchronize(device)
            if step == update.warm_up:
                profiler.start()
            if step == update.warm_up + _PROFILED:
                profiler.stop()

        run_steps(model, processor, batch, accumulate, update.warm_up + _PROFILED, on_step)
        recorded.extend(_work(profiler, device))

    fitting_rows(size.rows, run)
    if not recorded:
        raise SkippedError("the profiler has recorded no work of the device")
    values = summary(recorded, _PROFILED)
    save(values, _text(values, device))


def _work(profiler: profile, device: torch.device) -> list[Work]:
    """Returns the work of the device; on a CPU the operators that no other operator called."""
    work = []
    for event in profiler.events():
        on_device = event.device_type.name.lower() == device.type
        if on_device and event.cpu_parent is None and not event.is_user_annotation:
            work.append(Work(event.name, event.time_range.start, event.time_range.end))
    return work


def summary(work: Sequence[Work], steps: int) -> JSON:
    """Returns the times of a step in milliseconds: by kernel, by kind, busy and idle."""
    by_name: dict[str, list[float]] = defaultdict(list)
    by_kind: dict[str, float] = defaultdict(float)
    for item in work:
        by_name[item.name].append(item.end - item.start)
        by_kind[kind_of(item.name)] += (item.end - item.start) / 1e3 / steps
    totals = {name: sum(times) / 1e3 / steps for name, times in by_name.items()}
    slowest = sorted(totals, key=lambda name: -totals[name])[:_NUM_KERNELS]
    kernels = []
    for name in slowest:
        kernels.append({"name": name, "ms": totals[name], "calls": len(by_name[name]) / steps})
    busy, span, gaps = _busy(work)
    return {
        "ms": span / 1e3 / steps,
        "busy_ms": busy / 1e3 / steps,
        "idle_share": 1 - busy / span,
        "gaps_above_20_us": sum(gap > 20 for gap in gaps) / steps,
        "longest_gaps_ms": [gap / 1e3 for gap in sorted(gaps, reverse=True)[:3]],
        "calls": len(work) / steps,
        "slowest": kernels,
        "ms_by_kind": dict(sorted(by_kind.items(), key=lambda item: -item[1])),
    }


def kind_of(name: str) -> str:
    """Returns the kind of a kernel."""
    for kind, pattern in _KINDS.items():
        if re.search(pattern, name.lower()):
            return kind
    return "other"


def _busy(work: Sequence[Work]) -> tuple[float, float, list[float]]:
    """Returns the time with work, the time from the first to the last work, and the gaps between."""
    ordered = sorted(work, key=lambda item: item.start)
    busy = 0.0
    gaps = []
    reached = ordered[0].start
    for item in ordered:
        if item.start > reached:
            gaps.append(item.start - reached)
        busy += max(0.0, item.end - max(item.start, reached))
        reached = max(reached, item.end)
    return busy, reached - ordered[0].start, gaps


def _text(values: JSON, device: torch.device) -> str:
    what = "kernel" if device.type == "cuda" else "operator"
    kernels = []
    for kernel in values["slowest"]:
        name = kernel["name"].replace("|", "/")[:_NAME_LENGTH]
        kernels.append((f"`{name}`", f"{kernel['ms']:.2f}", f"{kernel['calls']:g}"))
    kinds = [(kind, f"{ms:.2f}", f"{ms / values['busy_ms']:.0%}") for kind, ms in values["ms_by_kind"].items()]
    longest = ", ".join(f"{gap:.2f}" for gap in values["longest_gaps_ms"])
    return (
        f"{values['ms']:.1f} ms a step. The device is busy {values['busy_ms']:.1f} ms and idle "
        f"{values['idle_share']:.1%}: {values['gaps_above_20_us']:.0f} gaps above 20 us a step, the longest {longest} "
        f"ms. There are {values['calls']:.0f} {what}s a step. The profiler slows the host.\n\n"
        + table((f"the slowest {what}s", "ms a step", "calls a step"), kernels)
        + "\n"
        + table((f"kinds of {what}s, by name", "ms a step", "of the busy time"), kinds)
    )
