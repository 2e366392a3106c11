"""The benchmark of attention kernels draws rows of whole documents, and all kernels give the same outputs."""

import json
import sys
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import varlen

from experiments.benchmark import attention_kernels
from experiments.benchmark.attention_kernels import Rows, draw_documents
from experiments.benchmark.image_attention import ImageLayer, ways
from flamingo.model.fusion import grouped


def test_rows_are_filled_with_whole_documents():
    drawn = draw_documents(Rows("pairs", 3, 100, 10, 20))
    for row in drawn:
        padding = int((row < 0).sum())
        assert padding < 20 and (row[100 - padding :] == -1).all()
        lengths = torch.bincount(row[: 100 - padding])
        assert lengths.min() >= 10 and lengths.max() <= 20
        assert (row[: 100 - padding].diff() >= 0).all()
    assert not torch.equal(drawn[0], drawn[1])


def test_all_ways_attend_to_the_image_of_each_token(monkeypatch):
    """With tokens that see no image, whose outputs are arbitrary, and an image that no token sees."""
    monkeypatch.setattr(grouped, "GROUP_SIZE", grouped.GROUP_SIZE)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_segments)
    index = torch.tensor([[[-1, 0, 0, 2, 2, 0]], [[1, 1, -1, 1, 2, 2]]])
    parts = [torch.randn(2, 1, 6, 2, 8), *torch.randn(2, 2, 3, 2, 4, 8)]
    layer = ImageLayer(*[part.requires_grad_() for part in parts], index)
    results = {}
    for name, way in ways(torch.device("cuda")).items():
        outputs = way(layer)()[index >= 0]
        results[name] = [outputs, *torch.autograd.grad(outputs.square().sum(), parts)]
    expected = results.pop("mask")
    assert len(results) == 4 and all(tensor.abs().max() > 0.1 for tensor in expected)
    for tensors in results.values():
        for actual, tensor in zip(tensors, expected):
            torch.testing.assert_close(actual, tensor)


def varlen_by_segments(queries, keys, values, cu_q, cu_k, max_q, max_k):
    assert max_q >= cu_q.diff().max() and max_k >= cu_k.diff().max() and cu_q[-1] == len(queries)
    outputs = []
    for (start, end), (first, last) in zip(pairwise(cu_q), pairwise(cu_k)):
        states = queries[start:end], keys[first:last], values[first:last]
        attended = F.scaled_dot_product_attention(*[state.transpose(0, 1) for state in states])
        outputs.append(attended.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.full
def test_the_command_compares_kernels(tmp_path, monkeypatch):
    arguments = ["--device", "cpu", "--rounds", "1", "--heads", "2", "--head_dim", "16", "--output", str(tmp_path)]
    monkeypatch.setattr(grouped, "GROUP_SIZE", grouped.GROUP_SIZE)
    monkeypatch.setattr(sys, "argv", ["attention_kernels", *arguments])
    attention_kernels.main()
    timings = json.loads((tmp_path / "attention_kernels.json").read_text())
    packed, images = timings[:2], timings[2:]
    assert [timing["kernel"] for timing in packed] == ["dense", "flex"]
    assert [timing["kernel"] for timing in images] == ["groups of 32", "groups of 64", "groups of 128", "mask"]
    assert all(timing["difference"] < 1e-5 and timing["both"] is None for timing in timings)
