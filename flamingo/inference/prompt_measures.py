"""Measures of the attention of the last token of prompts: in gated blocks, and shares of the parts of a prompt."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flamingo.data.document import Document
from flamingo.inference.engine import AttentionKey, AttentionMeasures
from flamingo.measure_rows import (
    DEMONSTRATION_IMAGE,
    DEMONSTRATION_TEXT,
    FIRST_TOKEN,
    GATED_ENTROPY,
    GATED_NORM,
    QUERY_IMAGE,
    QUERY_TEXT,
    SELF_ATTENTION,
)
from flamingo.model.prompt_attention import PromptAttention

Part = tuple[str, int | None]
"""The kind of tokens, and the distance of their demonstration from the query."""

#: The shares of a layer sum to 1 within this difference.
_TOLERANCE = 1e-3


def chunk_of_tokens(
    prompt: Document, input_ids: Int[Tensor, " t"], image_index: Int[Tensor, " t"], end_of_chunk: int
) -> list[int]:
    """Returns the chunk of each token of a prompt.

    A token that sees an image belongs to the chunk of the image. Images that share a text are one chunk. Chunks without
    an image are told apart by their ends.

    Args:
        prompt: The prompt.
        input_ids: Its tokens.
        image_index: The image that each token sees, -1 for none.
        end_of_chunk: The id of the token that ends a chunk.
    """
    with_image = []
    without_image = []
    number = 0
    for chunk in prompt.chunks():
        if chunk.image is None:
            without_image.append(number)
        else:
            with_image.append(number)
        if not chunk.joined:
            number += 1
    chunks = []
    ended = 0
    for position, (token, image) in enumerate(zip(input_ids.tolist(), image_index.tolist(), strict=True)):
        if image >= 0:
            chunks.append(with_image[image])
        elif without_image:
            # The beginning of an image's marker may see no image: it counts to the chunk before it.
            chunks.append(without_image[min(ended, len(without_image) - 1)])
            if token == end_of_chunk and position > 0:
                ended += 1
        else:
            chunks.append(0)
    return chunks


def parts_of_tokens(chunks: Sequence[int], is_image: Sequence[bool]) -> list[Part]:
    """Returns the part of each token of a prompt, whose last chunk is the query. The first token is a part of its own.

    Args:
        chunks: The chunk of each token.
        is_image: Whether the position is an image's: its marker, or one of its visual tokens.
    """
    parts: list[Part] = []
    for chunk, image in zip(chunks, is_image, strict=True):
        distance = chunks[-1] - chunk
        if distance > 0:
            parts.append((DEMONSTRATION_IMAGE if image else DEMONSTRATION_TEXT, distance))
        else:
            parts.append((QUERY_IMAGE if image else QUERY_TEXT, None))
    parts[0] = (FIRST_TOKEN, None)
    return parts


def measures_of_prompt(attention: PromptAttention, row: int, parts: Sequence[Part]) -> AttentionMeasures:
    """Returns the measures of one prompt of a batch. A measure without a value is left out.

    Args:
        attention: The attention of the batch, whose prompts are padded on the left.
        row: The row of the prompt.
        parts: The part of each token of the prompt.
    """
    measures: AttentionMeasures = {}
    for name, by_layer in ((GATED_ENTROPY, attention.gated_entropy), (GATED_NORM, attention.gated_norm)):
        for layer, values in by_layer.items():
            value = float(values[row])
            if not math.isnan(value):
                measures[AttentionKey(name, layer)] = value
    for layer, weights in attention.self_attention.items():
        weights_of_tokens = weights[row, -len(parts) :]
        for (part, distance), share in _shares(weights_of_tokens, parts).items():
            measures[AttentionKey(SELF_ATTENTION, layer, part, distance)] = share
    return measures


def _shares(weights: Float[Tensor, " t"], parts: Sequence[Part]) -> dict[Part, float]:
    """Returns the sum of the weights of each part."""
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    part_of_token = torch.tensor([numbers[part] for part in parts], device=weights.device)
    sums = weights.new_zeros(len(numbers)).index_add_(0, part_of_token, weights).tolist()
    assert abs(sum(sums) - 1) < _TOLERANCE, f"the shares of the self-attention sum to {sum(sums)}"
    return dict(zip(numbers, sums, strict=True))
