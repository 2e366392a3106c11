"""Similar images, and duplicates."""

from dataclasses import dataclass

import pytest
import torch

from flamingo.data.document import Image
from flamingo.inference.features import FeatureStore
from flamingo.inference.retrieval import index_neighbours, near_duplicates, nearest
from flamingo.utils.errors import UserError

#: Four directions around a mean that is far from zero, and a vector close to the first of them.
AROUND = torch.tensor([[9.0, 5.0], [5.0, 9.0], [1.0, 5.0], [5.0, 1.0], [9.0, 5.1]])


def test_the_nearest_come_first_and_duplicates_never():
    pool = AROUND[[0, 1, 2, 3, 0]] + torch.tensor([[0.0, 0], [0, 0], [0, 0], [0, 0], [0, 1]])
    assert nearest(torch.tensor([[9.0, 6.5]]), pool, 3, duplicate=0.999).tolist() == [[4, 0, 1]]
    assert nearest(torch.tensor([[9.0, 6.5]]), pool, 3).tolist() == [[1, 3, 2]]
    assert nearest(pool, pool, 1).tolist() == [[3], [2], [3], [2], [1]]
    with pytest.raises(UserError, match=r"3 others.*4"):
        nearest(pool[:1], pool, 4)


def test_near_duplicates_are_named_with_their_similarity():
    pairs = near_duplicates(torch.tensor([[5.0, -20.0], [9.0, 5.0]]), AROUND)
    assert [(one, other) for one, other, _ in pairs] == [(0, 3), (1, 0), (1, 4)]
    centre = AROUND.mean(dim=0)
    cosine = torch.cosine_similarity(AROUND[0] - centre, AROUND[4] - centre, dim=0)
    assert pairs[2][2] == pytest.approx(cosine.item())


def test_pictures_are_compared_in_blocks_as_all_at_once():
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(50, 4, generator=generator)
    whole = nearest(pool, pool, 3), near_duplicates(pool, pool)
    assert torch.equal(nearest(pool, pool, 3, block_size=7), whole[0])
    assert [pair[:2] for pair in near_duplicates(pool, pool, block_size=7)] == [pair[:2] for pair in whole[1]]


@dataclass(frozen=True)
class Record:
    id: str
    image: Image


class Store(FeatureStore):
    """Features by the name of the file."""

    def __init__(self):
        pass

    def pooled(self, images):
        return torch.stack([AROUND[int(image.frames[0])] for image in images])


def test_an_index_has_neighbours_beyond_what_is_never_shown():
    pool = [Record(f"p{number}", Image(str(number))) for number in range(5)]
    queries = [Record("q", Image("1")), Record("p0", Image("0"))]
    index = index_neighbours(Store(), queries, pool, num_neighbours=1)
    assert index.duplicates == {"q": frozenset({1}), "p0": frozenset({0, 4})}
    assert index.neighbours.shape == (2, 3)  # 1, and as many as "p0" may not have
    assert not set(index.neighbours[1].tolist()) & {0, 4} and 1 not in index.neighbours[0]
    assert index_neighbours(Store(), queries, pool, num_neighbours=0).neighbours is None
