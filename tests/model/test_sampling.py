"""Sampled tokens: their distribution, and draws that depend only on seed, query and position."""

import math

import pytest
import torch

from flamingo.model.sampling import Sampling, gumbel_noise
from flamingo.utils.errors import UserError

LOGITS = [2.0, 1.0, 0.0, -1.0]


def drawn(sampling, queries, position=0):
    """The token that each query draws after ``position`` others, from the same logits."""
    prompts = torch.zeros(len(queries), 3 + position, dtype=torch.long)
    scores = torch.tensor([LOGITS] * len(queries))
    for processor in sampling.processors(queries, prompt_length=3):
        scores = processor(prompts, scores)
    return scores.argmax(dim=1).tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
def test_tokens_follow_the_filtered_softmax(temperature, top_p):
    weights = [math.exp(logit / temperature) for logit in LOGITS]
    probabilities = [weight / sum(weights) for weight in weights]
    kept = []
    for probability in probabilities:  # the most probable first
        if sum(kept) < top_p:
            kept.append(probability)
    expected = [probability / sum(kept) for probability in kept]
    number = 4000
    tokens = drawn(Sampling(temperature, top_p), [str(query) for query in range(number)])
    shares = [tokens.count(token) / number for token in range(len(LOGITS))]
    for share, probability in zip(shares, expected):
        assert share == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / number))
    assert not any(shares[len(expected) :])
    assert (len(expected) < len(LOGITS)) == (top_p < 1)


def test_a_draw_depends_on_seed_query_and_position_alone():
    queries = [f"query {number}" for number in range(40)]
    sampling = Sampling(1.5, seed=3)
    together = drawn(sampling, queries)
    assert [drawn(sampling, [query])[0] for query in reversed(queries)] == together[::-1]
    assert len(set(together)) == len(LOGITS)
    assert drawn(sampling, queries, position=1) != together
    assert drawn(Sampling(1.5, seed=4), queries) != together
    assert drawn(sampling, [f"{query}'" for query in queries]) != together


def test_noise_is_the_same_everywhere():
    """Other numbers would change all sampled results."""
    noise = gumbel_noise(0, "query/0", 2, 50_000)
    assert noise[:3].tolist() == pytest.approx(
        [-0.10440321413908904, -0.5689759480758686, 1.8109246231611362], rel=1e-9
    )
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.03)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"temperature": 0.0}, "^temperature"),
        ({"top_p": 0.0}, "^top_p"),
        ({"top_p": 1.5}, "^top_p"),
        ({"seed": -1}, "^seed"),
    ],
)
def test_values_out_of_range_are_refused(keys, named):
    with pytest.raises(UserError, match=named):
        Sampling(**keys)
