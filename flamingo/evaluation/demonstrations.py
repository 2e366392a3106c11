"""Demonstrations, the controls and the prompt: pure functions of the seed, the query and the candidates."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace

from flamingo.data.document import Document, EndOfChunk, Part, Text
from flamingo.data.processor import END_OF_CHUNK_TOKEN, IMAGE_TOKEN
from flamingo.evaluation.protocol import Example, RetrievalTask, Task
from flamingo.utils.errors import UserError

#: How often a caption from elsewhere is drawn before it is clear that there is none.
_TRIES = 1000


def _rng(seed: int, query: Example, *purpose: str | int) -> random.Random:
    """The same on every machine and in every process, whatever else was drawn before; hash() is not."""
    digest = hashlib.sha256(json.dumps([seed, query.id, *purpose]).encode()).digest()
    return random.Random(int.from_bytes(digest))


def sample(rng: random.Random, n: int, k: int) -> list[int]:
    """``k`` different numbers below ``n`` in random order, in O(k) time and memory.

    The sample of ``k`` is the beginning of the sample of ``k + 1`` by an equal ``rng``. It is a Fisher-Yates shuffle
    that stops after ``k`` swaps and keeps only the places that were swapped.
    """
    swapped: dict[int, int] = {}
    chosen = []
    for place in range(k):
        drawn = rng.randrange(place, n)
        chosen.append(swapped.get(drawn, drawn))
        swapped[drawn] = swapped.get(place, place)
    return chosen


def shots_per_group(task: Task, query: Example, groups: Sequence[Sequence[Example]], shots: int) -> int:
    """How many demonstrations each group of the query's support gives. Raises UserError where it cannot give them."""
    if not groups or shots % len(groups):
        raise UserError(f"{task.name}: {shots} shots cannot be divided among the {len(groups)} groups of {query.id}")
    each = shots // len(groups)
    for number, group in enumerate(groups):
        if each > len(group):
            raise UserError(
                f"{task.name}: group {number} of {query.id} has {len(group)} examples, not the {each} asked"
            )
    return each


def choose(task: Task, query: Example, shots: int, seed: int, order: int = 0) -> list[Example]:
    """Random demonstrations, ``shots`` in all, equally many of each group, each with the one caption it is shown with.

    Those of fewer shots are among those of more, with the same captions. ``order`` is the number of a
    random order of the same demonstrations. Raises UserError where the groups cannot give as many.
    """
    groups = task.support(query)
    each = shots_per_group(task, query, groups, shots)
    chosen: list[Example] = []
    for number, group in enumerate(groups):
        # With the size: predictions made from a smaller or larger pool are recognised by their demonstrations.
        rng = _rng(seed, query, "group", number, len(group))
        chosen += [group[place] for place in sample(rng, len(group), each)]
    assert query.id not in {example.id for example in chosen}, f"the support of {query.id} contains it"
    _rng(seed, query, "order", order).shuffle(chosen)
    return [_with_caption(e, _rng(seed, query, "caption", e.id).choice(e.references)) for e in chosen]


def retrieve(task: Task, query: Example, shots: int, seed: int) -> list[Example]:
    """The demonstrations most similar to the query, the most similar last (RICES; Flamingo, section 3.1).

    Each with one caption, the same for any number of shots. Raises UserError for a task that cannot retrieve.
    """
    if not isinstance(task, RetrievalTask):
        raise UserError(f"{task.name} has no similar demonstrations: only random ones")
    chosen = list(task.similar(query, shots))[::-1]
    return [_with_caption(e, _rng(seed, query, "caption", e.id).choice(e.references)) for e in chosen]


def shuffled_images(demonstrations: Sequence[Example], query: Example, seed: int) -> list[Example]:
    """A control: the images permuted uniformly among the demonstrations, so that some may stay where they are."""
    images = [example.image for example in demonstrations]
    _rng(seed, query, "shuffled_images").shuffle(images)
    return [replace(example, image=image) for example, image in zip(demonstrations, images, strict=True)]


def shuffled_captions(task: Task, demonstrations: Sequence[Example], query: Example, seed: int) -> list[Example]:
    """A control: each caption replaced by one from the support of another query, of an example not in this prompt.

    Raises UserError where there is none.
    """
    rng = _rng(seed, query, "shuffled_captions")
    queries = task.queries()
    here = {query.id, *(example.id for example in demonstrations)}

    def caption() -> str:
        for _ in range(_TRIES):  # drawn and rejected: to list all candidates of all queries would take long
            other = queries[rng.randrange(len(queries))]
            if other.id == query.id:
                continue
            groups = task.support(other)
            group = groups[rng.randrange(len(groups))]
            example = group[rng.randrange(len(group))]
            if example.id not in here:
                return rng.choice(example.references)
        raise UserError(f"{task.name} has no caption to put in the place of those of {query.id}")

    return [_with_caption(example, caption()) for example in demonstrations]


def _with_caption(example: Example, caption: str) -> Example:
    return replace(example, references=(caption,))


def document(query: Example, demonstrations: Sequence[Example], images: bool = True) -> Document:
    """The prompt, to be continued. Without ``images`` the demonstrations, not the query, lose theirs."""
    parts: list[Part] = []
    for example in demonstrations:
        parts.append(example.image if images else EndOfChunk())
        parts.append(Text(f"{example.prompt} {example.references[0]}"))
    return Document([*parts, query.image, Text(query.prompt)], id=query.id)


def spell(prompt: Document) -> str:
    """The prompt as text, the way the processor writes it."""
    return END_OF_CHUNK_TOKEN.join(
        (IMAGE_TOKEN if chunk.image else "") + "".join(text.text for text in chunk.texts) for chunk in prompt.chunks()
    )
