"""Tasks on records whose demonstrations can also be retrieved by texts."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from flamingo.evaluation.protocol import Example
from flamingo.evaluation.selection import SUM
from flamingo.evaluation.tasks.pooled_task import PooledTask
from flamingo.evaluation.text_retrieval import BLOCK_SIZE, nearest_candidates, standardized_sums
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import image_similarities
from flamingo.inference.vector_store import VectorStore
from flamingo.utils.errors import UserError


@dataclass
class TextPooledTask(PooledTask):
    """A task with a similarity of texts, and its sum with that of images."""

    #: The similarity of the task's texts, and SUM.
    text_similarities: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _text_blocks(self, vectors: VectorStore | None) -> Iterator[Float[Tensor, "_ pool"]]:
        """Yields the similarity of texts of each query with each record of the pool, for a block of queries at a time.

        Args:
            vectors: A dual encoder's vectors; missing ones are added. None: there is no dual encoder.
        """

    def index_texts(self, numbers: Mapping[str, int], features: FeatureStore, vectors: VectorStore | None) -> None:
        """Finds the candidates of :meth:`similar_by` in each pool, after :meth:`index`.

        Args:
            numbers: Similarity -> the number of candidates for each query.
            features: The features of all images, which were added before.
            vectors: A dual encoder's vectors; missing ones are added. None: there is no dual encoder.

        Raises:
            UserError: If a query has too few candidates.
        """
        hidden = [self.pool.excluded(query) for query in self._queries]
        for similarity, number in numbers.items():
            blocks = self._text_blocks(vectors)
            if similarity == SUM:
                blocks = standardized_sums(self._image_blocks(features), blocks)
            self.pool.text_neighbours[similarity] = nearest_candidates(blocks, hidden, number)
        for support in self.other_supports.values():
            assert isinstance(support, TextPooledTask)
            support.index_texts(numbers, features, vectors)

    def _image_blocks(self, features: FeatureStore) -> Iterator[Float[Tensor, "_ pool"]]:
        queries = features.pooled([record.image for record in self.query_records])
        pool = features.pooled([record.image for record in self.pool.records])
        return image_similarities(queries, pool, BLOCK_SIZE)

    def similar_by(self, similarity: str, query: Example, number: int) -> Sequence[Example]:
        """Returns the candidates most similar to the query, the most similar first, without its duplicates.

        Args:
            similarity: One of ``text_similarities``.
            query: The query.
            number: The number of candidates.

        Raises:
            UserError: Before :meth:`index_texts`, and for more candidates than it has found.
        """
        neighbours = self.pool.text_neighbours.get(similarity)
        if neighbours is None:
            raise UserError(f"{self.name}: demonstrations that are similar by {similarity} were not searched")
        positions = neighbours[self._query_positions[query.id]].tolist()
        if number > len(positions):
            raise UserError(f"{self.name}: {query.id} has {len(positions)} similar examples, but {number} are needed")
        return [self._candidates[position] for position in positions[:number]]
