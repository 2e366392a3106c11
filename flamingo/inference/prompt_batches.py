"""Encoded prompts -> batches that do not depend on the number of processes, and what a batch costs."""

from collections.abc import Sequence

from flamingo.inference.encoded_prompt import EncodedPrompt
from flamingo.utils.sharing import batched

#: An image costs about as much as this number of tokens.
_TOKENS_PER_IMAGE = 256


def make_batches(rows: Sequence[EncodedPrompt], batch_size: int) -> list[Sequence[int]]:
    """Returns the numbers of the prompts of each batch. Prompts of similar lengths run together.

    The longest prompts come first: out-of-memory shows up in the first batch.
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids), reverse=True)
    return batched(order, batch_size)


def batch_cost(rows: Sequence[EncodedPrompt], new_tokens: int, prefix_length: int) -> int:
    """Returns the cost of a batch in tokens.

    Args:
        rows: The prompts.
        new_tokens: The number of tokens that run after each prompt, at most.
        prefix_length: The number of tokens at the beginning of each prompt that do not run.
    """
    longest = max(len(row.input_ids) for row in rows) - prefix_length
    images = set()
    for row in rows:
        images.update(row.keys)
    return len(rows) * (longest + new_tokens) + len(images) * _TOKENS_PER_IMAGE
