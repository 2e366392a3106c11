"""Sampling that depends on no other prompt: the noise of each token is a function of seed, query and position.

A sampled token is the largest of filtered logits / temperature + Gumbel noise (the Gumbel-max trick). Batch size, order
of the prompts and number of processes change no noise.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from flamingo.utils import checks


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: Divides the logits.
        top_p: The least probable tokens are left out, as long as the others have this probability together.
        seed: Of the noise.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.positive("temperature", self.temperature)
        checks.positive_probability("top_p", self.top_p)
        checks.seed("seed", self.seed)

    def processors(self, queries: Sequence[str], prompt_length: int) -> LogitsProcessorList:
        """Returns what makes greedy search draw.

        Args:
            queries: An id for each row of a batch.
            prompt_length: The tokens of each row before the first one that is drawn.
        """
        processors = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        processors.append(_AddNoise(self.seed, queries, prompt_length))
        return processors


def gumbel_noise(seed: int, query: str, position: int, vocabulary: int) -> Float[Tensor, " v"]:
    """Returns standard Gumbel noise for each token of a vocabulary, drawn on the CPU.

    Args:
        seed: Of the sampling.
        query: The id of the prompt.
        position: The number of tokens that were drawn after the prompt.
        vocabulary: The number of tokens.
    """
    digest = hashlib.sha256(json.dumps([seed, query, position]).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], signed=True))
    uniform = torch.rand(vocabulary, generator=generator, dtype=torch.float64)
    return -(-uniform.log()).log()


class _AddNoise(LogitsProcessor):
    """Adds to each row the noise of its query and position; greedy search then takes the largest."""

    def __init__(self, seed: int, queries: Sequence[str], prompt_length: int) -> None:
        self.seed, self.queries, self.prompt_length = seed, queries, prompt_length

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        position = input_ids.shape[1] - self.prompt_length
        rows = []
        for query in self.queries:
            rows.append(gumbel_noise(self.seed, query, position, scores.shape[1]))
        return scores + torch.stack(rows).to(scores)
