"""The contrastive loss, computed by hand."""

import math

import pytest
import torch
from torch import nn

from flamingo.model.contrastive import ImageTextContrast


class Fixed(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, *_):
        return self.rows


def inputs(count):
    """Any images and captions: the towers of this test ignore them."""
    tokens = torch.zeros(count, 1, dtype=torch.long)
    return torch.zeros(count, 3, 1, 1), tokens, tokens


def test_equal_captions_are_no_negatives_and_scale_is_clamped():
    model = ImageTextContrast(Fixed([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), Fixed([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    model.log_scale.data.fill_(math.log(2.0))
    # For the first and third: exp(2) against one other with exp(0); for the second: two others with exp(0).
    one, two = math.log(1 + math.exp(-2.0)), math.log(1 + 2 * math.exp(-2.0))
    loss = model(*inputs(3), same, num_items_in_batch=3).loss
    assert loss.item() == pytest.approx((2 * one + two) / 3)
    model.log_scale.data.fill_(math.log(1e4))
    wrong = ImageTextContrast(Fixed([[1.0, 0.0], [0.0, 1.0]]), Fixed([[0.0, 1.0], [1.0, 0.0]]))
    wrong.log_scale.data.fill_(math.log(1e4))
    assert wrong(*inputs(2), torch.eye(2).bool(), num_items_in_batch=2).loss.item() == pytest.approx(100.0)
