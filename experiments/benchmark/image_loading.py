"""Measures our data loader against Pillow alone: same JPEGs, same size, same number of processes."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image as PILImage

from experiments.benchmark.materials import Sizes, image_path
from experiments.benchmark.ratios import Ratio, make_ratio
from experiments.schema import DataConfig, DataSetConfig
from experiments.setup.build_data import TrainingRecords, build_data_sets
from flamingo import FlamingoProcessor
from flamingo.data.builders import InterleavedConfig
from flamingo.data.document import Image
from flamingo.data.records.record import Record, RecordList
from flamingo.data.sources import SourceSplit
from flamingo.training.losses import NextTokenConfig
from flamingo.utils.ancestors import end_with

#: How often all images are read. Several passes make the start of the processes negligible.
PASSES = 8


def measure(sizes: Sizes, folder: Path, processes: int, rounds: int) -> list[Ratio]:
    """Returns seconds per image: in training documents with one image each, and for reading and resizing alone.

    Both end with bytes. Our bytes become floats on the device of the model.
    """
    paths = [image_path(folder, number) for number in range(sizes.support + sizes.queries)]
    our_times = []
    times = []
    for turn in range(rounds):
        our_times.append(_measure_ours(paths, folder, processes, turn))
        times.append(_measure_pillow(paths, sizes.image_size, processes))
    return [make_ratio("loader", f"{processes} processes", "pillow", our_times, times, "s/image")]


def _measure_ours(paths: list[Path], folder: Path, processes: int, seed: int) -> float:
    processor = FlamingoProcessor.from_pretrained(folder / "flamingo")
    records = RecordList([Record(path.name, Image(path), ("w4 w5",), None) for path in paths], {})
    documents = InterleavedConfig(min_images=1, max_images=1, batch_size=8)
    split = SourceSplit(records, {}, records)
    config = DataConfig(documents={"pairs": DataSetConfig(documents, NextTokenConfig())})
    [loaded] = build_data_sets(config, TrainingRecords(split, split), processor, None, seed, processes)
    batches = iter(loaded.batches)
    next(batches)  # the processes have started
    begin = time.perf_counter()
    count = 0
    while count < PASSES * len(paths):
        count += len(next(batches).ids)
    return (time.perf_counter() - begin) / count


def _measure_pillow(paths: list[Path], size: int, processes: int) -> float:
    tasks = [(path, size) for path in paths] * PASSES
    with ProcessPoolExecutor(processes, initializer=begin_process) as pool:
        list(pool.map(_resize, tasks[: 2 * processes]))  # the processes have started
        begin = time.perf_counter()
        list(pool.map(_resize, tasks, chunksize=8))
        return (time.perf_counter() - begin) / len(tasks)


def begin_process() -> None:
    """Prepares a process of the pool."""
    end_with(os.getppid())
    torch.set_num_threads(1)


def _resize(task: tuple[Path, int]) -> None:
    path, size = task
    with PILImage.open(path) as opened:
        opened.convert("RGB").resize((size, size), PILImage.Resampling.BICUBIC)
