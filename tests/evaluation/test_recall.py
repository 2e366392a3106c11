"""Recall of image-text retrieval, computed by hand: ties, equal captions, and intervals over images."""

import numpy as np
import pytest

from flamingo.evaluation.metrics.resampling import bootstrap, mean
from flamingo.evaluation.recall import Gallery, hit_probabilities, recall_rows, shortlist


def recall_of(rows):
    return {(row["direction"], row["k"]): row["recall"] for row in rows}


def test_tied_answers_count_as_in_random_order():
    similarities = np.array([[0.9, 0.5, 0.5, 0.1], [0.3, 0.3, 0.3, 0.3], [0.1, 0.2, 0.2, 0.9]])
    right = np.array([[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    # The second query: of two draws from four, both are wrong with probability 2/4 * 1/3.
    expected = {1: [0, 1 / 2, 1], 2: [1 / 2, 5 / 6, 1], 3: [1, 1, 1]}
    for k, values in expected.items():
        assert hit_probabilities(similarities, right, k) == pytest.approx(values)


def test_an_equal_caption_is_right_for_each_of_its_images():
    gallery = Gallery([["a dog", "a cat"], ["a dog"], ["a bird"]])
    assert gallery.texts == ["a dog", "a cat", "a bird"]
    similarities = np.array([[0.2, 0.9, 0.5], [0.9, 0.1, 0.3], [0.6, 0.7, 0.5]])
    rows = recall_rows("m", similarities, similarities, gallery)
    recall = recall_of(rows)
    # The third image finds a cat first. The two dogs lie in the first image for half of them, and the bird is tied.
    assert recall["image_to_text", 1] == pytest.approx(2 / 3)
    assert recall["text_to_image", 1] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert recall["image_to_text", 5] == recall["text_to_image", 5] == 1
    assert {(row["direction"], row["queries"], row["gallery"]) for row in rows} == {
        ("image_to_text", 3, 4),
        ("text_to_image", 4, 3),
    }
    assert all(row["ci95"] is None for row in rows)
    # Each caption takes a place: the bird is the fourth, after both dogs.
    columns = gallery.text_of_caption
    assert hit_probabilities(similarities[:, columns], gallery.right[:, columns], 3)[2] == 0


def test_captions_are_resampled_with_their_image():
    gallery = Gallery([[f"{image} a", f"{image} b"] for image in range(30)])
    similarities = np.zeros((30, 60))
    for image in range(30):
        found = image if image < 15 else 0
        similarities[found, 2 * image : 2 * image + 2] = 1
    rows = recall_rows("m", similarities, similarities, gallery)
    [row] = [row for row in rows if (row["direction"], row["k"]) == ("text_to_image", 1)]
    assert row["recall"] == 0.5
    assert row["ci95"] == list(bootstrap(mean([1.0] * 15 + [0.0] * 15)))


def test_a_shortlist_has_the_most_similar_entries():
    similarities = np.array([[0.1, 0.3, 0.2], [0.5, 0.5, 0.5]])
    assert shortlist(similarities, 2).tolist() == [[False, True, True], [True, True, False]]
