"""The loader beside Pillow alone: the same JPEGs, the same size, the same number of processes."""

import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image as PILImage

from experiments.benchmark.materials import Sizes, picture
from experiments.benchmark.ratios import Row, row
from experiments.data import CaptionedImages, DataConfig, TrainedDocuments, make_data
from flamingo.data.builders import InterleavedConfig
from flamingo.data.document import Image
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.record import Record, RecordList
from flamingo.training.losses import NextTokenConfig

#: So many times all pictures: the processes' start counts for little.
PASSES = 8


def measure(sizes: Sizes, folder: Path, processes: int, rounds: int) -> list[Row]:
    """Seconds a picture: documents of one picture as training takes them, and pictures decoded and resized alone.

    Both end with bytes: ours become floats where the model computes.
    """
    pictures = [picture(folder, n) for n in range(sizes.support + sizes.queries)]
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        times[0].append(_ours(pictures, folder, processes, turn))
        times[1].append(_pillow(pictures, sizes.image_size, processes))
    return [row("loader", f"{processes} processes", "pillow", *times, unit="s/image")]


def _ours(pictures: list[Path], folder: Path, processes: int, seed: int) -> float:
    processor = FlamingoProcessor.from_pretrained(folder / "flamingo")
    images = RecordList([Record(path.name, Image(path), ("w4 w5",), None) for path in pictures], {})
    documents = InterleavedConfig(min_images=1, max_images=1, batch_size=8)
    config = DataConfig(documents={"pairs": TrainedDocuments(documents, NextTokenConfig())})
    [loaded] = make_data(config, CaptionedImages(images, {}, images), processor, None, seed, processes)
    batches = iter(loaded.batches)
    next(batches)  # the processes have started
    begin, count = time.perf_counter(), 0
    while count < PASSES * len(pictures):
        count += len(next(batches).ids)
    return (time.perf_counter() - begin) / count


def _pillow(pictures: list[Path], size: int, processes: int) -> float:
    todo = [(path, size) for path in pictures] * PASSES
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(_resized, todo[: 2 * processes]))
        begin = time.perf_counter()
        list(pool.map(_resized, todo, chunksize=8))
        return (time.perf_counter() - begin) / len(todo)


def _resized(task: tuple[Path, int]) -> None:
    path, size = task
    with PILImage.open(path) as opened:
        opened.convert("RGB").resize((size, size), PILImage.Resampling.BICUBIC)
