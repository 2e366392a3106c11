"""How much arithmetic a training step needs, and what share of the hardware's peak that is."""

from experiments.benchmark.materials import Sizes
from flamingo.interop.openflamingo import CROSS_ATTENTION, PERCEIVER

_INNER = CROSS_ATTENTION["num_heads"] * CROSS_ATTENTION["head_dim"]
_FEEDFORWARD = 4  # hidden units for each input of every feed-forward here


def training_step(sizes: Sizes) -> dict[str, float]:
    """Floating-point operations by part, of which a product of matrices [a b] and [b c] is 2abc.

    What the model needs, not what an implementation does: nothing for padding, images that are not looked at, or
    recomputation; of causal attention one half. Backward, a product costs as much again for the gradient of its
    input, which the frozen encoder does not need, and again for that of a weight that trains, or of both factors in
    attention.
    """
    w, v, r, p = sizes.width, sizes.vision_width, PERCEIVER["num_latents"], sizes.patches
    images = sizes.train_batch * sizes.train_images
    tokens = sizes.train_batch * sizes.train_tokens
    projections = 2 * 4 * w * w + 2 * 2 * _FEEDFORWARD * w * w  # of a token in a layer of the language model
    seen = sizes.train_tokens / 2
    perceiver_layer = 2 * 2 * r * v * _INNER + 2 * 2 * (p + r) * v * _INNER  # queries and output, keys and values
    perceiver_layer += 4 * r * (p + r) * _INNER + 2 * 2 * r * v * _FEEDFORWARD * v
    gated_token = 2 * 2 * w * _INNER + 4 * r * _INNER + 2 * 2 * w * _FEEDFORWARD * w
    gated_image = 2 * 2 * r * v * _INNER
    return {
        "vision encoder, forward": images * _encoder(sizes),
        "connector, x 3": 3 * images * PERCEIVER["depth"] * perceiver_layer,
        "gated blocks, x 3": 3 * (sizes.layers // sizes.every) * (tokens * gated_token + images * gated_image),
        "language model's weights, x 2": 2 * tokens * (sizes.layers * projections + 2 * w * sizes.vocabulary),
        "language model's attention, x 3": 3 * tokens * sizes.layers * 4 * seen * w,
    }


def _encoder(sizes: Sizes) -> float:
    """Forward, of one image."""
    v, tokens = sizes.vision_width, sizes.patches + 1
    layer = 2 * 4 * v * v + 2 * 2 * _FEEDFORWARD * v * v + 4 * tokens * v
    return tokens * sizes.vision_layers * layer + sizes.patches * 2 * 3 * sizes.patch**2 * v


def utilisation(sizes: Sizes, seconds: dict[str, float], peak: float) -> str:
    """The arithmetic as a table, and of ``peak`` (TFLOP/s) the share that a step of so many ``seconds`` reaches."""
    parts = training_step(sizes)
    total = sum(parts.values())
    lines = ["| part of a training step | TFLOP |", "|---|---:|"]
    lines += [f"| {name} | {value / 1e12:.3f} |" for name, value in [*parts.items(), ("all", total)]]
    lines += ["", f"| | s a step | TFLOP/s | of {peak:g} TFLOP/s |", "|---|---:|---:|---:|"]
    for name, spent in seconds.items():
        reached = total / spent / 1e12
        lines.append(f"| {name} | {spent:.4f} | {reached:.4g} | {reached / peak:.1%} |")
    return "\n".join(lines) + "\n"
