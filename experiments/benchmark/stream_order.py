"""Measures the order of streamed samples, without files: start, seek, memory, draws, and shards of a machine.

python -m experiments.benchmark.stream_order
python -m experiments.benchmark.stream_order --shards 1000 --samples 10000000 --ranks 64 --machines 8
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import psutil
from jaxtyping import Int64

from flamingo.data.streams.shard_order import ShardOrder
from flamingo.data.streams.stream_mixture import StreamMixture

#: Draws of a worker that are timed.
_NUM_DRAWS = 2_000


def main() -> None:
    """Prints the measures as JSON."""
    arguments = _arguments()
    sizes = unequal_sizes(arguments.shards, arguments.samples)
    print(json.dumps(measures(sizes, arguments), indent=1))


def unequal_sizes(shards: int, samples: int) -> Int64[np.ndarray, " shards"]:
    """Returns the numbers of samples of shards, from nearly none to twice the mean, which sum up to ``samples``."""
    shares = np.random.default_rng(0).uniform(0, 2, shards)
    ends = np.rint(np.cumsum(shares) / shares.sum() * samples).astype(np.int64)
    return np.diff(ends, prepend=0)


def measures(sizes: Int64[np.ndarray, " shards"], arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the measures of one process, by their names with units.

    Args:
        sizes: The number of samples of each shard.
        arguments: Those of the command line.
    """
    process = psutil.Process()
    memory = process.memory_info().rss
    start = time.perf_counter()
    order = ShardOrder(sizes, arguments.streams, arguments.group_size, arguments.window, 0)
    mixture = StreamMixture({"source": order}, {"source": 1.0}, {"source": None}, arguments.streams, 0)
    draw(order, mixture, 0)
    started = time.perf_counter()
    draw(order, mixture, arguments.seek // arguments.group_size)
    sought = time.perf_counter()
    draw(order, mixture, order.groups_per_epoch * arguments.streams)
    other_epoch = time.perf_counter()
    values = {
        "start (s)": started - start,
        f"seek to {arguments.seek} (s)": sought - started,
        "seek to another epoch (s)": other_epoch - sought,
    }
    for num_workers in (1, arguments.workers):
        times = _draw_times(order, mixture, arguments, num_workers)
        values[f"own draw, median, {num_workers} workers (ms)"] = statistics.median(times) * 1e3
        values[f"own draw, 99%, {num_workers} workers (ms)"] = statistics.quantiles(times, n=100)[-1] * 1e3
    values["memory above imports (MB)"] = (process.memory_info().rss - memory) / 1e6
    return values | _shards_of_machines(order, arguments)


def draw(order: ShardOrder, mixture: StreamMixture, group: int) -> int:
    """Draws the samples of a group.

    Returns:
        The number of its samples.
    """
    chosen = mixture.at(group)
    return len(order.group(chosen.stream, chosen.number))


def _draw_times(
    order: ShardOrder, mixture: StreamMixture, arguments: argparse.Namespace, num_workers: int
) -> list[float]:
    """Returns the seconds for each sample of the groups of a worker of the last process."""
    times = []
    first = arguments.seek // arguments.group_size
    for group in islice(_groups_of_worker(first, arguments.ranks, num_workers), _NUM_DRAWS // arguments.group_size):
        start = time.perf_counter()
        number = draw(order, mixture, group)
        times.append((time.perf_counter() - start) / max(1, number))
    return times


def _groups_of_worker(first: int, num_ranks: int, num_workers: int) -> Iterator[int]:
    """Yields the groups of the last process that its last worker makes: one of each batch, in turn of the workers."""
    group = first - first % num_ranks + num_ranks * num_workers - 1
    while True:
        yield group
        group += num_ranks * num_workers


def _shards_of_machines(order: ShardOrder, arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the shards that a machine opens in an epoch, and the samples that it uses of each."""
    numbers: list[int] = []
    used: list[float] = []
    for machine in range(arguments.machines):
        samples: dict[int, int] = {}
        for stream in range(machine, order.streams, arguments.machines):
            for shard, number in order.opened(stream).items():
                samples[shard] = samples.get(shard, 0) + number
        numbers.append(len(samples))
        used.append(sum(samples.values()) / len(samples))
    return {
        "shards opened by a machine, mean": statistics.mean(numbers),
        "shards opened by a machine, most": max(numbers),
        "samples used of an opened shard, mean": statistics.mean(used),
        "samples of a shard, mean": float(order.num_samples / len(order.samples)),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=1_000_000_000)
    parser.add_argument("--seek", type=int, default=700_000_000, help="a position, in samples")
    parser.add_argument("--streams", type=int, default=1024)
    parser.add_argument("--group_size", type=int, default=32, help="samples of a group")
    parser.add_argument("--window", type=int, default=10_000, help="samples among which a stream shuffles")
    parser.add_argument("--ranks", type=int, default=1024, help="processes")
    parser.add_argument("--workers", type=int, default=8, help="of each process")
    parser.add_argument("--machines", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    main()
