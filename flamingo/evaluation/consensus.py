"""Which captions of an image agree most with its others."""

from collections.abc import Sequence

from flamingo.evaluation.metrics import cider
from flamingo.evaluation.ptb import tokenize


def central(described: Sequence[Sequence[str]], number: int) -> list[tuple[str, ...]]:
    """Of each image's captions the ``number`` with the highest CIDEr against its others, in their own order.

    All captions of an image that has no more than that. People disagree on what to say of a picture, and scores ask
    for what most of them say: captions weighted so are Consensus-based Sequence Training's (Phan et al., 2017,
    WXE); here those of little weight are left out.
    """
    if number < 1:
        raise ValueError(f"of each image at least one caption has to be kept, got {number}")
    tokenized = [[tokenize(caption) for caption in captions] for captions in described]
    # Each caption of an image that has too many.
    asked = [(i, n) for i, captions in enumerate(described) if len(captions) > number for n in range(len(captions))]
    agreement: dict[int, list[float]] = {i: [] for i, _ in asked}
    if asked:
        others = [[other for place, other in enumerate(tokenized[i]) if place != n] for i, n in asked]
        for (i, _), score in zip(asked, cider([tokenized[i][n] for i, n in asked], others), strict=True):
            agreement[i].append(float(score))
    kept = []
    for i, captions in enumerate(described):
        scores = agreement.get(i, [0.0] * len(captions))
        chosen = sorted(range(len(captions)), key=lambda n, scores=scores: -scores[n])[:number]
        kept.append(tuple(captions[n] for n in sorted(chosen)))
    return kept
