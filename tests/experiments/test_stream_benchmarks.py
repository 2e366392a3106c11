"""The benchmarks of streaming: what they count. Their times are not tested."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest

from experiments.benchmark.stream_order import measures, unequal_sizes


def test_a_machine_opens_its_share_of_the_shards():
    sizes = unequal_sizes(400, 40_000)
    assert sizes.sum() == 40_000 and sizes.min() < 30 and sizes.max() > 170
    values = measures(
        sizes,
        Namespace(seek=30_000, streams=16, group_size=4, window=50, ranks=8, workers=2, machines=8),
    )
    # 400 shards / 8 machines, and a few that two machines share.
    assert 50 <= values["shards opened by a machine, mean"] <= values["shards opened by a machine, most"] <= 60
    assert values["samples of a shard, mean"] == 100
    # Each sample is read by one machine.
    used = values["samples used of an opened shard, mean"] * values["shards opened by a machine, mean"]
    assert used == pytest.approx(40_000 / 8, rel=0.02)


@pytest.mark.full
def test_rows_are_equal_on_three_and_then_two_processes(tmp_path):
    arguments = ["--shards", "5", "--samples", "300", "--workers", "1", "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "experiments.benchmark.stream_shards", *arguments]
    values = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert values["updates"] == values["updates with equal rows on 1 process, and on 3 and then 2"] == 8
    # The second start makes no index.
    assert 0 < values["first start: indexes on the disk"] == values["second start: indexes on the disk"]
    assert len(list(tmp_path.glob("*.index"))) == 5
