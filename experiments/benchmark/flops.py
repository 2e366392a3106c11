"""The arithmetic that a training step needs, and its share of the hardware's peak."""

from experiments.benchmark.materials import Sizes
from flamingo.interop.openflamingo import CROSS_ATTENTION, PERCEIVER

#: The width of all heads together.
_INNER = CROSS_ATTENTION["num_heads"] * CROSS_ATTENTION["head_dim"]
#: Of every feed-forward here.
_MLP_RATIO = 4


def training_step(sizes: Sizes) -> dict[str, float]:
    """Returns floating-point operations by part. A product of matrices [a b] and [b c] has 2abc of them.

    They are those that the model needs, while torch's FlopCounterMode counts those that an implementation does, with
    padding, masked images, recomputation and both halves of causal attention. In the backward pass a product costs the
    same again for the gradient of its input, which the frozen encoder does not need, and again for the gradient of a
    weight that trains, or of the other factor in attention.
    """
    images = sizes.train_batch * sizes.train_images
    tokens = sizes.train_batch * sizes.train_tokens
    num_blocks = sizes.layers // sizes.every
    gated_blocks = num_blocks * (tokens * _gated_block_per_token(sizes) + images * _gated_block_per_image(sizes))
    head = _product(1, sizes.width, sizes.vocabulary)
    language_weights = tokens * (sizes.layers * _transformer_weights(sizes.width) + head)
    context = sizes.train_tokens / 2  # tokens that a token attends to on average
    language_attention = tokens * sizes.layers * _attention(context, sizes.width)
    return {
        "vision encoder, forward": images * _encoder(sizes),
        "connector, x 3": 3 * images * PERCEIVER["depth"] * _perceiver_layer(sizes),
        "gated blocks, x 3": 3 * gated_blocks,
        "language model's weights, x 2": 2 * language_weights,
        "language model's attention, x 3": 3 * language_attention,
    }


def _product(a: float, b: float, c: float) -> float:
    """Returns the operations of a product of matrices [a b] and [b c]."""
    return 2 * a * b * c


def _mlp(width: int) -> float:
    """Returns the operations of a feed-forward of one token."""
    return 2 * _product(1, width, _MLP_RATIO * width)


def _transformer_weights(width: int) -> float:
    """Returns the operations of queries, keys, values, output and feed-forward of one token in a layer."""
    return 4 * _product(1, width, width) + _mlp(width)


def _attention(context: float, width: int) -> float:
    """Returns the operations of the logits and the weighted sum of one token that attends to ``context`` tokens."""
    return 2 * _product(1, width, context)


def _encoder(sizes: Sizes) -> float:
    """Returns the operations of a forward pass of one image."""
    width, tokens = sizes.vision_width, sizes.patches + 1
    layer = _transformer_weights(width) + _attention(tokens, width)
    patch_embedding = _product(sizes.patches, 3 * sizes.patch**2, width)
    return tokens * sizes.vision_layers * layer + patch_embedding


def _perceiver_layer(sizes: Sizes) -> float:
    """Returns the operations of a forward pass of one image."""
    width, latents = sizes.vision_width, PERCEIVER["num_latents"]
    context = sizes.patches + latents
    queries_and_output = 2 * _product(latents, width, _INNER)
    keys_and_values = 2 * _product(context, width, _INNER)
    attention = latents * _attention(context, _INNER)
    return queries_and_output + keys_and_values + attention + latents * _mlp(width)


def _gated_block_per_token(sizes: Sizes) -> float:
    queries_and_output = 2 * _product(1, sizes.width, _INNER)
    return queries_and_output + _attention(PERCEIVER["num_latents"], _INNER) + _mlp(sizes.width)


def _gated_block_per_image(sizes: Sizes) -> float:
    """Returns the operations of keys and values."""
    return 2 * _product(PERCEIVER["num_latents"], sizes.vision_width, _INNER)


def utilisation(sizes: Sizes, seconds: dict[str, float], peak: float) -> str:
    """Returns tables of the arithmetic, and of the share of ``peak`` (TFLOP/s) that each implementation reaches.

    Args:
        sizes: Of the model and the batch.
        seconds: Of a training step, by implementation.
        peak: Of the device.
    """
    parts = training_step(sizes)
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
