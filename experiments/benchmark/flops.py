"""The floating-point operations that a model of a shape needs."""

from dataclasses import dataclass

from experiments.benchmark.shapes import MLP_RATIO, Shape


def training_step(shape: Shape, rows: int, tokens: int, images: int) -> dict[str, float]:
    """Returns floating-point operations by part. A product of matrices [a b] and [b c] has 2abc of them.

    These are the operations that the model needs. torch's FlopCounterMode counts those of an implementation, with
    padding, masked images, recomputation and both halves of causal attention. In the backward pass a product costs the
    same again for the gradient of its input, and again for the gradient of a trained weight or of the other factor in
    attention. The frozen encoder needs neither. So a weight has per token 2 operations in the encoder, 4 in the
    language model, through which gradients flow, and 6 in the trained parts.

    Args:
        shape: The model.
        rows: The rows of the batch.
        tokens: The tokens of a row.
        images: The images of a row.
    """
    all_tokens = rows * tokens
    all_images = rows * images
    gated_blocks = _num_blocks(shape) * (
        all_tokens * _gated_block_per_token(shape) + all_images * _gated_block_per_image(shape)
    )
    context = tokens / 2  # the mean number of tokens that a token attends to
    language_attention = all_tokens * shape.layers * _attention(context, shape.width)
    return {
        "vision encoder, forward": all_images * encoder(shape),
        "connector, x 3": 3 * all_images * resampler(shape),
        "gated blocks, x 3": 3 * gated_blocks,
        "language model's weights, x 2": 2 * all_tokens * _language_weights(shape),
        "language model's attention, x 3": 3 * language_attention,
    }


@dataclass(frozen=True)
class Queries:
    """The sizes of an evaluation: a query has a prompt of ``shots`` demonstrations and its own image."""

    shots: int
    prompt_tokens: int
    new_tokens: int
    beams: int


def naive_query(shape: Shape, queries: Queries) -> float:
    """Returns the operations of a query if each beam runs the prompt and encodes all images.

    Each forward pass computes the keys and values of all images again, also that of a new token.
    """
    images = queries.beams * (queries.shots + 1)
    passes = 1 + queries.new_tokens
    encoding = encoder(shape) + resampler(shape)
    return (
        images * (encoding + passes * keys_values(shape))
        + queries.beams * prompt(shape, queries.prompt_tokens)
        + queries.beams * queries.new_tokens * _text_token(shape, queries.prompt_tokens)
    )


def shared_query(shape: Shape, queries: Queries) -> float:
    """Returns the operations of a query with encoded demonstrations, whose prompt runs once for all beams.

    The image of the query is encoded. The keys and values of all images are computed once.
    """
    return (
        encoder(shape)
        + resampler(shape)
        + (queries.shots + 1) * keys_values(shape)
        + prompt(shape, queries.prompt_tokens)
        + queries.beams * queries.new_tokens * _text_token(shape, queries.prompt_tokens)
    )


def prompt(shape: Shape, tokens: int) -> float:
    """Returns the operations of a forward pass of a prompt's text."""
    return tokens * _text_token(shape, tokens / 2)


def encoder(shape: Shape) -> float:
    """Returns the operations of a forward pass of one image."""
    tokens = shape.patches + 1
    layer = _transformer_weights(shape.vision_width) + _attention(tokens, shape.vision_width)
    patch_embedding = _product(shape.patches, 3 * shape.patch**2, shape.vision_width)
    return tokens * shape.vision_layers * layer + patch_embedding


def resampler(shape: Shape) -> float:
    """Returns the operations of a forward pass of one image."""
    width, inner, latents = shape.vision_width, shape.inner, shape.num_latents
    context = shape.patches + latents
    queries_and_output = 2 * _product(latents, width, inner)
    keys_and_values = 2 * _product(context, width, inner)
    attention = latents * _attention(context, inner)
    layer = queries_and_output + keys_and_values + attention + latents * _mlp(width)
    return shape.resampler_depth * layer


def keys_values(shape: Shape) -> float:
    """Returns the operations of the keys and values of one image in all gated blocks."""
    return _num_blocks(shape) * _gated_block_per_image(shape)


def _num_blocks(shape: Shape) -> int:
    return shape.layers // shape.every


def _text_token(shape: Shape, context: float) -> float:
    """Returns the operations of a forward pass of one token that attends to ``context`` tokens."""
    blocks = _num_blocks(shape) * _gated_block_per_token(shape)
    return _language_weights(shape) + blocks + shape.layers * _attention(context, shape.width)


def _language_weights(shape: Shape) -> float:
    """Returns the operations of all weights of the language model and one token."""
    return shape.layers * _transformer_weights(shape.width) + _product(1, shape.width, shape.vocab_size)


def _product(a: float, b: float, c: float) -> float:
    """Returns the operations of a product of matrices [a b] and [b c]."""
    return 2 * a * b * c


def _mlp(width: int) -> float:
    """Returns the operations of a feed-forward of one token."""
    return 2 * _product(1, width, MLP_RATIO * width)


def _transformer_weights(width: int) -> float:
    """Returns the operations of queries, keys, values, output and feed-forward of one token in a layer."""
    return 4 * _product(1, width, width) + _mlp(width)


def _attention(context: float, width: int) -> float:
    """Returns the operations of the logits and the weighted sum of one token that attends to ``context`` tokens."""
    return 2 * _product(1, width, context)


def _gated_block_per_token(shape: Shape) -> float:
    queries_and_output = 2 * _product(1, shape.width, shape.inner)
    return queries_and_output + _attention(shape.num_latents, shape.inner) + _mlp(shape.width)


def _gated_block_per_image(shape: Shape) -> float:
    """Returns the operations of the keys and values of an image."""
    return 2 * _product(shape.num_latents, shape.vision_width, shape.inner)
