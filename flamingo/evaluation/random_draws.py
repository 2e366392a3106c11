"""Random draws of an evaluation: a pure function of the seed, the query and the purpose."""

import hashlib
import json
import random

from flamingo.evaluation.protocol import Example


def query_rng(seed: int, query: Example, *purpose: str | int) -> random.Random:
    """Returns a generator that depends only on its arguments, on every machine and in every process.

    Args:
        seed: The seed of the setting.
        query: The query, of which only ``draw_id`` counts, or else the id.
        *purpose: The purpose of the draw. These texts are data: another text draws other numbers.
    """
    id = query.id if query.draw_id is None else query.draw_id
    digest = hashlib.sha256(json.dumps([seed, id] + list(purpose)).encode()).digest()
    return random.Random(int.from_bytes(digest))


def draw_positions(rng: random.Random, n: int, k: int) -> list[int]:
    """Returns ``k`` different numbers below ``n`` in random order, in O(k) time and memory.

    The draw of ``k`` is the beginning of the draw of ``k + 1`` by an equal ``rng``. It is a Fisher-Yates shuffle
    that stops after ``k`` swaps and stores only the positions that were swapped.
    """
    swapped: dict[int, int] = {}
    numbers = []
    for position in range(k):
        other = rng.randrange(position, n)
        numbers.append(swapped.get(other, other))
        swapped[other] = swapped.get(position, position)
    return numbers
