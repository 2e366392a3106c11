"""Demonstrations: random or retrieved, a pure function of the seed, the query and its support."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace

from flamingo.evaluation.protocol import Example, RetrievalTask, Task
from flamingo.utils.errors import UserError


def query_rng(seed: int, query: Example, *purpose: str | int) -> random.Random:
    """Returns a generator that depends on its arguments alone, on every machine and in every process.

    Args:
        seed: The seed of the setting.
        query: Only its id counts.
        purpose: What is drawn. These texts are data: another text draws other numbers.
    """
    digest = hashlib.sha256(json.dumps([seed, query.id] + list(purpose)).encode()).digest()
    return random.Random(int.from_bytes(digest))


def sample(rng: random.Random, n: int, k: int) -> list[int]:
    """Returns ``k`` different numbers below ``n`` in random order, in O(k) time and memory.

    The sample of ``k`` is the beginning of the sample of ``k + 1`` by an equal ``rng``. It is a Fisher-Yates shuffle
    that stops after ``k`` swaps and keeps only the positions that were swapped.
    """
    swapped: dict[int, int] = {}
    numbers = []
    for position in range(k):
        other = rng.randrange(position, n)
        numbers.append(swapped.get(other, other))
        swapped[other] = swapped.get(position, position)
    return numbers


def shots_per_group(task: Task, query: Example, groups: Sequence[Sequence[Example]], shots: int) -> int:
    """Returns how many demonstrations each group of the query's support gives.

    Raises:
        UserError: Where the groups cannot give equally many, or not enough.
    """
    if not groups or shots % len(groups):
        raise UserError(f"{task.name}: {shots} shots cannot be divided among the {len(groups)} groups of {query.id}")
    per_group = shots // len(groups)
    for number, group in enumerate(groups):
        if per_group > len(group):
            raise UserError(
                f"{task.name}: group {number} of {query.id} has {len(group)} examples, {per_group} are needed"
            )
    return per_group


def sample_demonstrations(task: Task, query: Example, shots: int, seed: int, order: int = 0) -> list[Example]:
    """Returns ``shots`` random demonstrations, equally many of each group, each with one caption.

    Fewer shots are a subset of more shots, with the same captions.

    Args:
        task: The task, which has the query's support.
        query: The query.
        shots: The number of demonstrations.
        seed: The seed of the setting.
        order: The number of a random order; every order has the same demonstrations.

    Raises:
        UserError: Where the groups cannot give as many.
    """
    groups = task.support(query)
    per_group = shots_per_group(task, query, groups, shots)
    demonstrations: list[Example] = []
    for number, group in enumerate(groups):
        # The size of the group is part of the seed: another pool gives other demonstrations, which the harness notices.
        rng = query_rng(seed, query, "group", number, len(group))
        demonstrations += [group[position] for position in sample(rng, len(group), per_group)]
    assert query.id not in {example.id for example in demonstrations}, f"the support of {query.id} contains it"
    query_rng(seed, query, "order", order).shuffle(demonstrations)
    return [_with_random_caption(example, query, seed) for example in demonstrations]


def retrieve_demonstrations(task: Task, query: Example, shots: int, seed: int) -> list[Example]:
    """Returns the demonstrations most similar to the query, the most similar last (RICES; Flamingo, section 3.1).

    Each has one caption, which does not depend on the number of shots.

    Raises:
        UserError: For a task without retrieval.
    """
    if not isinstance(task, RetrievalTask):
        raise UserError(f"{task.name} has no similar demonstrations: only random ones")
    nearest_first = list(task.similar(query, shots))
    return [_with_random_caption(example, query, seed) for example in reversed(nearest_first)]


def with_caption(example: Example, caption: str) -> Example:
    """Returns the example with a single reference."""
    return replace(example, references=(caption,))


def _with_random_caption(example: Example, query: Example, seed: int) -> Example:
    rng = query_rng(seed, query, "caption", example.id)
    return with_caption(example, rng.choice(example.references))
