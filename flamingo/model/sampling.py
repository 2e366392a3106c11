"""Sampling that does not depend on other prompts: the noise of a token is a function of seed, query and position.

A sampled token is the largest of filtered logits / temperature + Gumbel noise (the Gumbel-max trick). Batch size, order
of the prompts and number of processes do not change the noise.
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
    """The settings of random draws of tokens.

    Attributes:
        temperature: The divisor of the logits.
        top_p: The total probability of the most probable tokens that are kept (nucleus sampling).
        seed: The seed of the noise.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.positive("temperature", self.temperature)
        checks.positive_probability("top_p", self.top_p)
        checks.seed("seed", self.seed)

    def processors(self, queries: Sequence[str], prompt_length: int) -> LogitsProcessorList:
        """Returns logits processors that make greedy search draw at random.

        Args:
            queries: An id for each row of a batch.
            prompt_length: The number of tokens of each row before the first one that is drawn.
        """
        processors = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        processors.append(_AddNoise(self.seed, queries, prompt_length))
        return processors


def gumbel_noise(seed: int, query: str, position: int, vocabulary: int) -> Float[Tensor, " vocabulary"]:
    """Returns standard Gumbel noise for each token of a vocabulary, drawn on the CPU.

    Args:
        seed: The seed of the sampling.
        query: The id of the prompt.
        position: The number of tokens that were drawn after the prompt.
        vocabulary: The number of tokens in the vocabulary.
    """
    digest = hashlib.sha256(json.dumps([seed, query, position]).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], signed=True))
    uniform = torch.rand(vocabulary, generator=generator, dtype=torch.float64)
    return -(-uniform.log()).log()


class _AddNoise(LogitsProcessor):
    """Adds to each row the noise of its query and position. Greedy search then takes the largest."""

    def __init__(self, seed: int, queries: Sequence[str], prompt_length: int) -> None:
        self.seed, self.queries, self.prompt_length = seed, queries, prompt_length

    def __call__(
        self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b vocabulary"]
    ) -> Float[Tensor, "b vocabulary"]:
        position = input_ids.shape[1] - self.prompt_length
        rows = []
        for query in self.queries:
            rows.append(gumbel_noise(self.seed, query, position, scores.shape[1]))
        return scores + torch.stack(rows).to(scores)
