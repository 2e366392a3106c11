"""A training on streamed shards resumes with another number of processes to the same updates."""

from itertools import chain

import pytest
import torch

from tests.data.streams.shards import pair, write_pairs, write_shard
from tests.training import streamed_runs
from tests.training.runs import free_port, history
from tests.training.test_resume import in_processes, processes

processes.set_forkserver_preload(["tests.training.runs", "tests.training.streamed_runs"])


def run(num_ranks, folders, steps):
    """Trains in some processes until ``steps`` steps are done.

    Returns:
        The rows of each new step, sorted, and the weights.
    """
    port = free_port()
    arguments = [(rank, num_ranks, port, folders, steps) for rank in range(num_ranks)]
    assert in_processes(streamed_runs.one_of_some, *arguments) == [0] * num_ranks
    saved = [torch.load(folders[2] / f"steps-{steps}-rank-{rank}.pt") for rank in range(num_ranks)]
    rows = [sorted(chain.from_iterable(shares)) for shares in zip(*(one["drawn"] for one in saved), strict=True)]
    return rows, saved[0]["weights"]


@pytest.mark.full
def test_three_processes_and_then_two_are_one(backbones, tmp_path):
    data = tmp_path / "data"
    write_pairs(data / "a", 9, 11, 14, 6)
    write_pairs(data / "b", 8, 8, first=100)
    write_shard(data / "b" / "00001.tar", pair("201", 201, " ") + pair("202", 202))
    alone, elastic = ((backbones, data, tmp_path / name) for name in ("alone", "elastic"))
    rows, weights = run(1, alone, 8)
    before, _ = run(3, elastic, 4)
    after, elastic_weights = run(2, elastic, 8)
    assert before + after == rows and len(rows) == 8
    first, second = history(alone[2]), history(elastic[2])
    assert [record["step"] for record in second] == list(range(1, 9))
    for key in ("loss", "gradient_norm"):
        assert [record[key] for record in second] == pytest.approx([record[key] for record in first], rel=1e-5)
    reasons = ("dropped/broken sample: a caption is empty", "dropped/sample of a broken shard")
    for key in ("tokens", *reasons):
        assert second[-1][key] == first[-1][key] > 0
    for name, weight in weights.items():
        torch.testing.assert_close(elastic_weights[name], weight, rtol=0, atol=1e-4)
