"""The benchmark of the loss's memory computes the same loss and gradients in both ways."""

import torch
from torch import nn

from experiments.benchmark.loss_memory import WAYS, loss_by
from flamingo.model.language import NewTokenEmbeddings


def test_both_ways_give_the_same_loss_and_gradients():
    head = nn.Linear(4, 7, bias=False).requires_grad_(False)
    new_tokens = NewTokenEmbeddings([7, 8], 7, 4, 4, tied=True)
    nn.init.normal_(new_tokens.input_rows)
    hidden = torch.randn(1, 5, 4, requires_grad=True)
    labels = torch.tensor([[1, 8, 2, 7, 6]])
    results = []
    for way in WAYS:
        loss = loss_by(way, head, new_tokens, hidden, labels)
        results.append([loss, *torch.autograd.grad(loss, [hidden, new_tokens.input_rows])])
    assert results[0][0] > 0.1
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole)
