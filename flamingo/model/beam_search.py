"""Greedy search, beam search and sampling with the same settings for every language model."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList


def search(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    *,
    end: int,
    max_new_tokens: int,
    num_beams: int = 1,
    num_return_sequences: int = 1,
    min_new_tokens: int = 0,
    length_penalty: float = 0.0,
    processors: LogitsProcessorList | None = None,
) -> Int[Tensor, "bn s"]:
    """Returns the token ids of the most likely continuations, padded after their ``end``.

    ``generate`` takes every missing setting from ``model.generation_config``, which comes with the language model: a
    repetition penalty there would penalise the words of the demonstrations. This function replaces that config by an
    empty one while it runs.

    Args:
        model: A model with transformers' ``generate``.
        tokenizer: Its tokenizer, for the id of the padding.
        inputs: The arguments of ``generate`` other than settings, including ``input_ids``.
        end: The id of the token that ends a continuation.
        max_new_tokens: The largest number of tokens in a continuation.
        num_beams: The number of beams; 1: greedy search.
        num_return_sequences: The number of continuations of each prompt, the most likely first.
        min_new_tokens: The smallest number of tokens before ``end``.
        length_penalty: The log-probability of a beam is divided by its length to this power. By default beams are
            compared by sums, as in OpenFlamingo's evaluation.
        processors: Change the logits of each step, in this order. The processors of a
            :class:`flamingo.model.sampling.Sampling` make greedy search draw at random.
    """
    config = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        length_penalty=length_penalty if num_beams > 1 else None,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    shipped = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        # Processes that share layers keep step by themselves (flamingo.inference.lockstep).
        ids = model.generate(**inputs, generation_config=config, logits_processor=processors, synced_gpus=False)
    finally:
        model.generation_config = shipped
    return ids[:, inputs["input_ids"].shape[1] :]


def decode(tokenizer: Any, ids: Sequence[int], end: int) -> str:
    """Returns the text of a continuation up to its ``end``, without special tokens and leading spaces."""
    tokens = list(ids)
    if end in tokens:
        tokens = tokens[: tokens.index(end)]
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).lstrip()
