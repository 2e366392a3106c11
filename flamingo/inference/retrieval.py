"""Retrieval by frozen features: the images of a pool that are most similar to a query, and its near-duplicates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from flamingo.data.document import Image
from flamingo.inference.features import FeatureStore
from flamingo.utils.errors import UserError

#: The smallest similarity (cosine) of near-duplicates, which count as the same picture.
DUPLICATE = 0.9

#: A query, an image of the pool, and their similarity: (row, row, cosine).
Pair = tuple[int, int, float]
#: A pair with the ids of both: ``query``, ``image``, ``similarity``.
NamedPair = dict[str, str | float]


@runtime_checkable
class HasImage(Protocol):
    """An image with an id: a record, or an example of a task."""

    @property
    def id(self) -> str:
        """The id of the image."""
        ...

    @property
    def image(self) -> Image:
        """The image."""
        ...


@dataclass(frozen=True)
class ImageSimilarity:
    """Compares images as :func:`nearest` does."""

    #: The features of all images, which were added before.
    features: FeatureStore
    #: The mean of the pool's pooled features.
    mean: Float[Tensor, " v"]

    def __call__(self, query: Image, others: Sequence[Image]) -> list[float]:
        """Returns the similarity of each of the others to the query."""
        pooled = self.features.pooled([query, *others])
        centred = normalize(pooled - self.mean, dim=-1)
        return (centred[1:] @ centred[0]).tolist()


@dataclass(frozen=True)
class NeighbourIndex:
    """The images of a pool that are similar to queries."""

    #: For each query the positions in the pool of the most similar images, the most similar first. They include neither
    #: the query nor its near-duplicates. None if no neighbours were asked for.
    neighbours: Int[np.ndarray, "queries k"] | None
    #: Id of a query -> the positions of its near-duplicates in the pool. A query in the pool is its own duplicate.
    duplicates: dict[str, frozenset[int]]
    #: All near-duplicates.
    pairs: list[Pair]
    #: Compares any images.
    similarity: ImageSimilarity


def index_neighbours(
    features: FeatureStore, queries: Sequence[HasImage], pool: Sequence[HasImage], num_neighbours: int
) -> NeighbourIndex:
    """Returns the near-duplicates of each query in the pool, and its most similar other images.

    Args:
        features: The features of all images, which were added before.
        queries: The queries, with unique ids.
        pool: The candidates.
        num_neighbours: The smallest number of similar images per query; 0: only duplicates are searched.

    Raises:
        UserError: If a query has too few neighbours.
    """
    query_features = features.pooled([query.image for query in queries])
    pool_features = features.pooled([candidate.image for candidate in pool])
    pairs = near_duplicates(query_features, pool_features)
    positions: dict[str, set[int]] = {}
    for query, position, _ in pairs:
        positions.setdefault(queries[query].id, set()).add(position)
    duplicates = {id: frozenset(of_query) for id, of_query in positions.items()}
    neighbours = None
    if num_neighbours > 0:
        # Images that no prompt may show, the query itself and its duplicates, are added to the number.
        number = min(num_neighbours + _max_hidden(queries, pool, duplicates), len(pool))
        neighbours = nearest(query_features, pool_features, number).cpu().numpy()
    return NeighbourIndex(neighbours, duplicates, pairs, ImageSimilarity(features, pool_features.mean(dim=0)))


def _max_hidden(queries: Sequence[HasImage], pool: Sequence[HasImage], duplicates: dict[str, frozenset[int]]) -> int:
    """Returns the largest number of images in the pool that no prompt of a query may show."""
    position_of = {candidate.id: position for position, candidate in enumerate(pool)}
    counts = []
    for query in queries:
        hidden = set(duplicates.get(query.id, ()))
        if query.id in position_of:
            hidden.add(position_of[query.id])
        counts.append(len(hidden))
    return max(counts)


def support_duplicates(index: NeighbourIndex, queries: Sequence[HasImage], pool: Sequence[HasImage]) -> list[NamedPair]:
    """Returns the near-duplicates of queries in the pool. A query that is itself in the pool is not among them."""
    in_pool = [pair for pair in index.pairs if queries[pair[0]].id != pool[pair[1]].id]
    return _named(in_pool, queries, pool)


def query_duplicates(
    features: FeatureStore, queries: Sequence[HasImage], trained: Sequence[HasImage]
) -> dict[str, list[NamedPair]]:
    """Returns the near-duplicates of queries: among the queries ("queries"), and in training images ("training")."""
    query_features = features.pooled([query.image for query in queries])
    among_queries = [pair for pair in near_duplicates(query_features, query_features) if pair[0] < pair[1]]
    report = {"queries": _named(among_queries, queries, queries)}
    if trained:
        in_training = near_duplicates(query_features, features.pooled([record.image for record in trained]))
        report["training"] = _named(in_training, queries, trained)
    return report


def _named(pairs: Sequence[Pair], queries: Sequence[HasImage], others: Sequence[HasImage]) -> list[NamedPair]:
    rows = []
    for query, other, similarity in pairs:
        row: NamedPair = {"query": queries[query].id, "image": others[other].id}
        row["similarity"] = round(similarity, 4)
        rows.append(row)
    return rows


class NeighboursError(UserError):
    """An image has fewer other images, near-duplicates left out, than are needed."""


def nearest(
    queries: Float[Tensor, "queries v"],
    pool: Float[Tensor, "pool v"],
    number: int,
    duplicate: float = DUPLICATE,
    block_size: int = 1024,
) -> Int[Tensor, "queries number"]:
    """Returns the rows of ``pool`` most similar to each query, the most similar first, by exact search.

    Args:
        queries: Pooled features.
        pool: Pooled features.
        number: The number of rows for each query.
        duplicate: Rows of at least this similarity, such as the query itself, are left out.
        block_size: The number of queries that are compared at once.

    Raises:
        NeighboursError: If too few rows are left.
    """
    rows = []
    for similarity in image_similarities(queries, pool, block_size):
        similarity[similarity >= duplicate] = -torch.inf
        left = int((similarity > -torch.inf).sum(dim=-1).min())
        if left < number:
            raise NeighboursError(f"a picture has {left} others that are not duplicates of it, but {number} are needed")
        rows.append(similarity.topk(number, dim=-1).indices)
    return torch.cat(rows)


def near_duplicates(
    queries: Float[Tensor, "queries v"],
    pool: Float[Tensor, "pool v"],
    duplicate: float = DUPLICATE,
    block_size: int = 1024,
) -> list[Pair]:
    """Returns all pairs (row of ``queries``, row of ``pool``, similarity) of at least the similarity ``duplicate``."""
    pairs = []
    for block, similarity in enumerate(image_similarities(queries, pool, block_size)):
        similar = (similarity >= duplicate).nonzero()
        values = similarity[tuple(similar.T)]
        for (row, column), value in zip(similar.tolist(), values.tolist(), strict=True):
            pairs.append((block * block_size + row, column, value))
    return pairs


def image_similarities(
    queries: Float[Tensor, "queries v"], pool: Float[Tensor, "pool v"], block_size: int
) -> Iterator[Float[Tensor, "block pool"]]:
    """Yields cosines of the differences from the pool's mean, for a block of queries at a time.

    Features of any two pictures have much in common. Cosines of MobileNetV2's features are 0.45 for random pairs of
    photographs; cosines of the differences are 0.
    """
    mean = pool.mean(dim=0)
    pool = normalize(pool - mean, dim=-1)
    for block in queries.split(block_size):
        yield normalize(block - mean, dim=-1) @ pool.T
