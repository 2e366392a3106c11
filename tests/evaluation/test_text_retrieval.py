"""Similarities by texts and their nearest candidates, computed by hand."""

import math

import numpy as np
import pytest
import torch

from flamingo.data.document import Image
from flamingo.evaluation.text_retrieval import (
    image_caption_similarities,
    nearest_candidates,
    question_similarities,
    standardized_sums,
)
from flamingo.inference.vector_store import VectorStore
from flamingo.utils.errors import UserError


class Vectors(VectorStore):
    """The vectors of images and texts, by their names, in two dimensions."""

    def __init__(self, **angles):
        self.angles = {name.replace("_", " "): math.radians(angle) for name, angle in angles.items()}
        self.added = []

    def _of(self, names):
        return torch.tensor([[math.cos(self.angles[name]), math.sin(self.angles[name])] for name in names])

    def add_images(self, images):
        self.added += [image.frames[0] for image in images]

    def add_texts(self, texts):
        self.added += list(texts)

    def images(self, images):
        return self._of([image.frames[0] for image in images])

    def texts(self, texts):
        return self._of(texts)


def cos(*degrees):
    return [math.cos(math.radians(angle)) for angle in degrees]


def test_an_image_is_compared_with_the_mean_of_all_captions():
    """The best caption of the first candidate is nearer than that of the second, but the mean is farther."""
    vectors = Vectors(query=0, other=90, near=10, far=100, middle=40)
    images = [Image("query"), Image("other"), Image("query")]
    pool = [("near", "far"), ("middle",)]
    blocks = list(image_caption_similarities(images, pool, vectors, block_size=2))
    assert [len(block) for block in blocks] == [2, 1]
    found = torch.cat(blocks)
    expected = [[sum(cos(10, 100)) / 2, *cos(40)], [sum(cos(80, 10)) / 2, *cos(50)]]
    np.testing.assert_allclose(found, [*expected, expected[0]], atol=1e-6)
    assert set(vectors.added) == {"query", "other", "near", "far", "middle"}


def test_questions_are_compared_by_the_text_tower():
    vectors = Vectors(asked=0, same=0, near=20, far=80)
    [found] = question_similarities(["asked"], ["far", "near", "far", "same"], vectors)
    np.testing.assert_allclose(found, [cos(80, 20, 80, 0)], atol=1e-6)
    assert found[0, 0] == found[0, 2]


def test_questions_are_compared_by_tf_idf_without_a_dual_encoder():
    pytest.importorskip("sklearn")
    pool = ["What color is the dog?", "Is the dog red?", "How many?", "What color is the dog?"]
    questions = ["What color is it?", "Is the dog red ?", "why"]
    [found, last] = question_similarities(questions, pool, None, "en", block_size=2)
    color = math.log(5 / 3) + 1  # in two of four: what, color
    common = math.log(5 / 4) + 1  # in three of four: is, the, dog
    unknown = math.log(5 / 1) + 1  # in none: it
    lengths = math.sqrt(2 * color**2 + common**2 + unknown**2), math.sqrt(2 * color**2 + 3 * common**2)
    assert found[0, 0].item() == pytest.approx((2 * color**2 + common**2) / math.prod(lengths))
    assert found[0, 0] == found[0, 3] and found[1, 1].item() == pytest.approx(1) and found[0, 2] == 0
    assert last.tolist() == [[0, 0, 0, 0]]


def test_both_similarities_of_a_sum_have_the_same_weight():
    """The second spreads over a tenth of the first's range, and the third has no spread."""
    first = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]])
    second = torch.tensor([[0.5, 0.7, 0.6], [0.3, 0.3, 0.3]])
    [found] = standardized_sums([first], [second])
    unit = math.sqrt(3 / 2)
    np.testing.assert_allclose(found, [[0, unit, -unit], [unit, 0, -unit]], atol=1e-5)


def test_the_nearest_come_first_without_hidden_ones():
    blocks = [torch.tensor([[0.1, 0.9, 0.5, 0.9], [0.4, 0.2, 0.3, 0.1]]), torch.tensor([[0.0, 0.0, 0.0, 0.0]])]
    hidden = [frozenset(), frozenset({0}), frozenset({1})]
    found = nearest_candidates([block.clone() for block in blocks], hidden, 2)
    assert found.tolist() == [[1, 3], [2, 1], [0, 2]]
    assert nearest_candidates([block.clone() for block in blocks], hidden, 3)[0].tolist() == [1, 3, 2]
    with pytest.raises(UserError, match=r"3 candidates.*4"):
        nearest_candidates(blocks, hidden, 4)
