"""Computes the share of the hardware's peak that a training step reaches."""

from experiments.benchmark.flops import training_step
from experiments.benchmark.materials import Sizes


def utilisation(sizes: Sizes, seconds: dict[str, float], peak: float) -> str:
    """Returns tables of the operations, and of the share of the peak that each implementation reaches.

    Args:
        sizes: The sizes of the model and the batch.
        seconds: The seconds of a training step, by implementation.
        peak: The peak of the device in TFLOP/s.
    """
    parts = training_step(sizes.shape(), sizes.train_batch, sizes.train_tokens, sizes.train_images)
    total = sum(parts.values())
    lines = ["| part of a training step | TFLOP |", "|---|---:|"]
    for part, operations in parts.items():
        lines.append(f"| {part} | {operations / 1e12:.3f} |")
    lines += [f"| all | {total / 1e12:.3f} |", ""]
    lines += [f"| | s a step | TFLOP/s | of {peak:g} TFLOP/s |", "|---|---:|---:|---:|"]
    for name, seconds_per_step in seconds.items():
        tflops = total / seconds_per_step / 1e12
        lines.append(f"| {name} | {seconds_per_step:.4f} | {tflops:.4g} | {tflops / peak:.1%} |")
    return "\n".join(lines) + "\n"
