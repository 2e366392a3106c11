"""Steps of training and of decoding on the same batches, and the memory of training."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.benchmark.materials import Sizes, make_batch
from experiments.benchmark.ratios import Row, make_row
from experiments.benchmark.worker import Worker

#: Numbers of images in prompts of equal length.
DECODED = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 512, 24
#: Updates of a measurement. The first one allocates memory and does not count.
STEPS = 3


def decode(sizes: Sizes, ours: Worker, peers: Sequence[Worker], folder: Path, rounds: int) -> list[Row]:
    """Returns seconds per token after prompts that differ in the number of images alone."""
    rows = []
    for images in DECODED:
        path = _save_batch(sizes, ours, folder, images, PROMPT_TOKENS)
        our_times, *peer_times = _alternate([ours, *peers], "decode", rounds, path=path, tokens=NEW_TOKENS)
        for peer, times in zip(peers, peer_times, strict=True):
            rows.append(make_row("decode", _counted(images), peer.name, our_times, times, "s/token"))
    return rows


def train_step(sizes: Sizes, ours: Worker, peers: Sequence[Worker], folder: Path, rounds: int) -> list[Row]:
    """Returns seconds per training step."""
    path = _save_batch(sizes, ours, folder, sizes.train_images, sizes.train_tokens)
    our_times, *peer_times = _alternate([ours, *peers], "train_step", rounds, path=path, steps=STEPS)
    rows = []
    for peer, times in zip(peers, peer_times, strict=True):
        rows.append(make_row("train_step", _case(sizes), peer.name, our_times, times, "s"))
    return rows


def train_cost(sizes: Sizes, ours: Worker, peer: Worker, folder: Path, rounds: int) -> list[Row]:
    """Returns seconds per training step by the number of images at constant text length, and by the text length."""

    def measure(case: str, images: int, tokens: int) -> Row:
        path = _save_batch(sizes, ours, folder, images, tokens)
        our_times, times = _alternate([ours, peer], "train_step", rounds, path=path, steps=STEPS)
        return make_row("train_step", case, peer.name, our_times, times, "s")

    images, tokens = sizes.train_images, sizes.train_tokens
    rows = []
    for number in (images // 4, images // 2, images, 2 * images):
        rows.append(measure(f"by images: {number}", number, tokens))
    for number in (tokens // 4, tokens // 2, tokens, 2 * tokens):
        rows.append(measure(f"by tokens: {number}", images, number))
    return rows


def train_step_features(sizes: Sizes, ours: Worker, peer: Worker, folder: Path, rounds: int) -> list[Row]:
    """Returns seconds per training step: ours from precomputed features, the peer's from pixels."""
    path = _save_batch(sizes, ours, folder, sizes.train_images, sizes.train_tokens)
    our_times = []
    times = []
    for _ in range(rounds):
        our_times.append(_median_step(ours.ask("train_step", path=path, steps=STEPS, features=True)["result"]))
        times.append(_median_step(peer.ask("train_step", path=path, steps=STEPS)["result"]))
    return [make_row("train_step_features", _case(sizes), peer.name, our_times, times, "s")]


def memory(sizes: Sizes, ours: Worker, peers: Sequence[Worker], folder: Path) -> list[Row]:
    """Returns the peak memory of each training process: model, optimizer, activations, libraries."""
    path = _save_batch(sizes, ours, folder, sizes.train_images, sizes.train_tokens)
    our_peak = ours.ask("train_step", path=path, steps=STEPS)["peak"]
    rows = []
    for peer in peers:
        peak = peer.ask("train_step", path=path, steps=STEPS)["peak"]
        rows.append(make_row("memory", f"training, {_case(sizes)}", peer.name, [our_peak], [peak], "MB"))
    return rows


def _alternate(workers: Sequence[Worker], do: str, rounds: int, **request: object) -> list[list[float]]:
    """Returns for each worker its seconds in each round."""
    times: list[list[float]] = [[] for _ in workers]
    for _ in range(rounds):
        for worker, times_of_worker in zip(workers, times, strict=True):
            result = worker.ask(do, **request)["result"]
            seconds = _median_step(result) if isinstance(result, list) else result
            times_of_worker.append(seconds)
    return times


def _median_step(seconds: Sequence[float]) -> float:
    return statistics.median(seconds[1:])


def _save_batch(sizes: Sizes, ours: Worker, folder: Path, images: int, tokens: int) -> str:
    path = folder / "batch.pt"
    image_token = ours.ask("image_token")["result"]
    torch.save(make_batch(sizes, images, tokens, image_token), path)
    return str(path)


def _case(sizes: Sizes) -> str:
    return f"{_counted(sizes.train_images)}, {sizes.train_tokens} tokens"


def _counted(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"
