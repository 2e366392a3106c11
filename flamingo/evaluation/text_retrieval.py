"""Retrieval of demonstrations by texts: similarities of questions, of images and captions, and sums with images.

Similarities come in blocks [block pool]: those of some queries with all candidates of a pool.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flamingo.data.document import Image
from flamingo.evaluation.caption_search import text_similarities
from flamingo.inference.retrieval import NeighboursError
from flamingo.inference.vector_store import VectorStore

#: The number of queries that are compared at once. A pool may have half a million questions.
BLOCK_SIZE = 256


def question_similarities(
    questions: Sequence[str],
    pool: Sequence[str],
    vectors: VectorStore | None,
    language: str = "en",
    block_size: int = BLOCK_SIZE,
) -> Iterator[Float[Tensor, "_ pool"]]:
    """Yields the cosine of questions with each question of a pool.

    Args:
        questions: The questions of the queries.
        pool: The questions of the candidates.
        vectors: A dual encoder's vectors of texts; None: vectors are TF-IDF of tokens.
        language: The language, which decides on the tokens of TF-IDF.
        block_size: The number of queries that are compared at once.
    """
    if vectors is None:
        yield from text_similarities(questions, pool, language, block_size)
        return
    # Equal questions are compared once: products of matrices may round the same sum to two values.
    distinct = list(dict.fromkeys(pool))
    position_of = {question: position for position, question in enumerate(distinct)}
    positions = [position_of[question] for question in pool]
    vectors.add_texts([*questions, *distinct])
    of_pool = vectors.texts(distinct)
    for block in vectors.texts(questions).split(block_size):
        yield (block @ of_pool.T)[:, positions]


def image_caption_similarities(
    images: Sequence[Image],
    pool: Sequence[Sequence[str]],
    vectors: VectorStore,
    block_size: int = BLOCK_SIZE,
) -> Iterator[Float[Tensor, "_ pool"]]:
    """Yields the mean cosine of images with the captions of each candidate.

    A demonstration shows one of its captions at random, so the mean is the expected similarity of the shown one.

    Args:
        images: The images of the queries.
        pool: The captions of the candidates.
        vectors: A dual encoder's vectors.
        block_size: The number of queries that are compared at once.
    """
    vectors.add_images(images)
    vectors.add_texts(caption for captions in pool for caption in captions)
    means = torch.stack([vectors.texts(captions).mean(dim=0) for captions in pool])
    for block in vectors.images(images).split(block_size):
        yield block @ means.T


def standardized_sums(
    first: Iterable[Float[Tensor, "_ pool"]], second: Iterable[Float[Tensor, "_ pool"]]
) -> Iterator[Float[Tensor, "_ pool"]]:
    """Yields sums of two similarities, of which each is standardized for each query.

    Cosines of two images spread more widely than those of an image and a text. Each similarity has mean 0 and standard
    deviation 1 over the candidates of a query, so both have the same weight.
    """
    for one, other in zip(first, second, strict=True):
        yield _standardized(one.cpu()) + _standardized(other)


def _standardized(similarity: Float[Tensor, "block pool"]) -> Float[Tensor, "block pool"]:
    """Returns the differences from a query's mean, divided by its standard deviation; 0 where all are equal."""
    difference = similarity - similarity.mean(dim=-1, keepdim=True)
    deviation = similarity.std(dim=-1, correction=0, keepdim=True)
    # Equal similarities differ by rounding from their mean.
    is_constant = similarity.amax(dim=-1, keepdim=True) == similarity.amin(dim=-1, keepdim=True)
    return torch.where(is_constant, 0.0, difference / deviation)


def nearest_candidates(
    similarities: Iterable[Float[Tensor, "_ pool"]], hidden: Sequence[Collection[int]], number: int
) -> Int[np.ndarray, "queries number"]:
    """Returns the positions of the candidates most similar to each query, the most similar first, by exact search.

    Of equally similar candidates the first comes first.

    Args:
        similarities: The similarities of all queries, in blocks.
        hidden: For each query the positions that are left out: its own, and those of its duplicates.
        number: The number of positions for each query.

    Raises:
        NeighboursError: If too few candidates are left.
    """
    rows: list[list[int]] = []
    for block in similarities:
        for similarity in block:
            left_out = list(hidden[len(rows)])
            left = len(similarity) - len(left_out)
            if left < number:
                raise NeighboursError(
                    f"a query has {left} candidates that are not duplicates of it, but {number} are needed"
                )
            similarity[left_out] = -torch.inf
            rows.append(_largest(similarity, number))
    return np.array(rows)


def _largest(similarity: Float[Tensor, " pool"], number: int) -> list[int]:
    """Returns the positions of the largest values, the largest first; ``topk`` gives equal ones any order."""
    least = similarity.topk(number).values[-1]
    positions = (similarity >= least).nonzero().flatten()
    order = similarity[positions].argsort(descending=True, stable=True)
    return positions[order][:number].tolist()
