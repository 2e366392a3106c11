"""Images find their texts, and texts their images."""

import random

import numpy as np

from flamingo.data.pages.page import SectionBreak
from flamingo.data.pages.page_layout import (
    images_at_the_end,
    images_before_texts,
    longest_row_of_images,
    one_section,
    page_chunks,
    text_of_each_image,
)
from tests.data.page_makers import image

A, B, C = image(1), image(2), image(3)


def test_assignment_is_by_the_largest_similarity_or_sum():
    similarity = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.2]])
    assert text_of_each_image(similarity, different_texts=False, min_similarity=0.0) == [0, 0]
    assert text_of_each_image(similarity, different_texts=True, min_similarity=0.0) == [1, 0]


def test_images_below_the_threshold_have_no_text():
    similarity = np.array([[0.24, 0.1], [0.2, 0.23]])
    assert text_of_each_image(similarity, different_texts=False, min_similarity=0.24) == [0, None]


def test_more_images_than_texts_leave_the_least_similar_one():
    similarity = np.array([[0.3], [0.5], [0.4]])
    assert text_of_each_image(similarity, different_texts=True, min_similarity=0.0) == [None, 0, None]


def test_images_stand_before_their_texts_in_text_order():
    assert images_before_texts(["x", "y", "z"], [A, B, C], [2, 0, 2]) == [B, "x", "y", A, C, "z"]


def test_images_in_a_row_and_at_the_end_are_counted():
    parts = [A, B, "x", A, SectionBreak(), B, C]
    assert longest_row_of_images(parts) == 2 and images_at_the_end(parts) == 2
    assert images_at_the_end([A, "x"]) == 0


def chunks(parts, next_image):
    return [(chunk.image, chunk.texts) for chunk in page_chunks(parts, next_image)]


def test_texts_belong_to_the_image_before_or_after_them():
    parts = ["x", A, "y", "z", B, C, "w"]
    assert chunks(parts, False) == [(None, ["x"]), (A, ["y", "z"]), (B, []), (C, ["w"])]
    assert chunks(parts, True) == [(A, ["x"]), (B, ["y", "z"]), (C, []), (None, ["w"])]


def test_texts_do_not_cross_section_breaks():
    parts = [A, "x", SectionBreak(), "y", B]
    assert chunks(parts, False) == [(None, []), (A, ["x"]), (None, ["y"]), (B, [])]
    assert chunks(parts, True) == [(A, []), (None, ["x"]), (B, ["y"]), (None, [])]


def test_a_section_with_an_image_is_drawn():
    parts = ["x", SectionBreak(), A, "y", SectionBreak(), SectionBreak(), "z", B]
    drawn = [one_section(parts, random.Random(seed)) for seed in range(20)]
    assert [A, "y"] in drawn and ["z", B] in drawn
    assert all(section in ([A, "y"], ["z", B]) for section in drawn)
