"""The benchmark of attention kernels draws rows of whole documents, and all kernels give the same outputs."""

import json
import sys

import pytest
import torch

from experiments.benchmark import attention_kernels
from experiments.benchmark.attention_kernels import Rows, draw_documents


def test_rows_are_filled_with_whole_documents():
    drawn = draw_documents(Rows("pairs", 3, 100, 10, 20))
    for row in drawn:
        padding = int((row < 0).sum())
        assert padding < 20 and (row[100 - padding :] == -1).all()
        lengths = torch.bincount(row[: 100 - padding])
        assert lengths.min() >= 10 and lengths.max() <= 20
        assert (row[: 100 - padding].diff() >= 0).all()
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.full
def test_the_command_compares_kernels(tmp_path, monkeypatch):
    arguments = ["--device", "cpu", "--rounds", "1", "--heads", "2", "--head_dim", "16", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["attention_kernels", *arguments])
    attention_kernels.main()
    timings = json.loads((tmp_path / "attention_kernels.json").read_text())
    assert [timing["kernel"] for timing in timings] == ["dense", "flex"]
    assert all(timing["difference"] < 1e-5 and timing["both"] is None for timing in timings)
