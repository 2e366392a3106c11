"""Markers are counted row by row, and rows with unequal markers are found."""

import pytest
import torch

from flamingo.model.fusion.visual_index import index_of_markers, whole_images

TEXT, MARKER = 5, 9


def test_markers_are_counted_in_each_row():
    ids = torch.tensor(
        [
            [TEXT, MARKER, MARKER, MARKER, TEXT, MARKER, MARKER, MARKER, MARKER, MARKER, MARKER],
            [MARKER, MARKER, MARKER, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT],
        ]
    )
    assert index_of_markers(ids, MARKER, 3).tolist() == [
        [-1, 0, 1, 2, -1, 0, 1, 2, 0, 1, 2],
        [0, 1, 2, -1, -1, -1, -1, -1, -1, -1, -1],
    ]


@pytest.mark.parametrize(
    ("markers", "images", "whole"),
    [
        ("..00.11.", [-1, -1, 0, 0, 0, 1, 1, 1], True),
        ("0011", [0, 0, 1, 1], True),
        ("0011", [-1, -1, -1, -1], True),  # not seen
        ("....", [-1, 0, 0, -1], True),
        ("0.0.", [0, 0, 0, 0], False),  # text between them
        ("0...", [0, 0, 0, 0], False),  # too few
        ("...0", [0, 0, 0, 0], False),
        ("000.", [0, 0, 0, 0], False),  # too many
        ("00..", [0, 1, 1, 1], False),  # of two images
        (".0110", [-1, 0, 1, 1, 1], False),
    ],
)
def test_rows_with_another_number_of_markers_are_found(markers, images, whole):
    """Two visual tokens per image; a dot is text."""
    ids = torch.tensor([[TEXT if mark == "." else MARKER for mark in markers]])
    index = index_of_markers(ids, MARKER, 2)
    assert whole_images(index, torch.tensor([images]), 2).tolist() == [whole]


def test_one_visual_token_per_image_is_always_whole():
    ids = torch.tensor([[MARKER, TEXT, MARKER, MARKER]])
    index = index_of_markers(ids, MARKER, 1)
    assert index.tolist() == [[0, -1, 0, 0]]
    assert whole_images(index, torch.tensor([[0, 0, 1, 2]]), 1).all()
