"""The vectors of classes are means over templates, and probabilities are a softmax of scaled cosines."""

import math

import pytest
import torch

from flamingo.data.document import Image
from flamingo.inference.class_vectors import class_probabilities, class_vectors
from flamingo.inference.dual_encoder import DualEncoder


class Plane(DualEncoder):
    """A dual encoder in the plane: each text and image has an angle in degrees."""

    scale = 2.0

    def __init__(self):
        self.texts = {"cat": 0.0, "a cat!": 60.0, "dog": 90.0, "a dog!": 180.0}

    def text_vectors(self, texts):
        return self._vectors([self.texts[text] for text in texts])

    def image_vectors(self, images):
        return self._vectors([float(image.frames[0]) for image in images])

    def _vectors(self, angles):
        radians = [math.radians(angle) for angle in angles]
        return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in radians])


def test_a_class_has_the_normalised_mean_of_its_prompts():
    vectors = class_vectors(Plane(), ["cat", "dog"], ["{}", "a {}!"])
    root = math.sqrt(0.5)
    expected = torch.tensor([[math.sqrt(0.75), 0.5], [-root, root]])  # at 30 and 135 degrees, of length 1
    torch.testing.assert_close(vectors, expected)


def test_probabilities_are_those_of_scaled_cosines():
    vectors = class_vectors(Plane(), ["cat", "dog"], ["{}"])
    [[cat, dog], [of_both, _]] = class_probabilities(Plane(), [Image("0"), Image("45")], vectors).tolist()
    assert cat == pytest.approx(math.exp(2) / (math.exp(2) + 1)) and dog == pytest.approx(1 - cat)
    assert of_both == pytest.approx(0.5)
