"""A step of training and of decoding on the same batches, and the memory that training takes."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.benchmark.materials import Sizes, batch
from experiments.benchmark.ratios import Row, row
from experiments.benchmark.worker import Worker

#: Numbers of images in a prompt of equal length, and the new tokens whose time is measured.
DECODED = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 512, 24
#: Updates of one measurement; that of the first, in which memory is touched for the first time, is left out.
STEPS = 3


def decode(sizes: Sizes, ours: Worker, peers: Sequence[Worker], folder: Path, rounds: int) -> list[Row]:
    """Seconds a token behind prompts that differ in nothing but the number of images."""
    rows = []
    for images in DECODED:
        path = _saved(sizes, ours, folder, images, PROMPT_TOKENS)
        times = _alternate([ours, *peers], "decode", rounds, path=path, tokens=NEW_TOKENS)
        rows += [
            row("decode", _counted(images), p.name, times[0], t, "s/token")
            for p, t in zip(peers, times[1:], strict=True)
        ]
    return rows


def train_step(sizes: Sizes, ours: Worker, peers: Sequence[Worker], folder: Path, rounds: int) -> list[Row]:
    path = _saved(sizes, ours, folder, sizes.train_images, sizes.train_tokens)
    times = _alternate([ours, *peers], "train_step", rounds, path=path, steps=STEPS)
    case = f"{_counted(sizes.train_images)}, {sizes.train_tokens} tokens"
    return [row("train_step", case, p.name, times[0], t, "s") for p, t in zip(peers, times[1:], strict=True)]


def train_cost(sizes: Sizes, ours: Worker, peer: Worker, folder: Path, rounds: int) -> list[Row]:
    """The step against the number of images with constant text, and against the text's length."""
    images, tokens = sizes.train_images, sizes.train_tokens
    cases = [("by images", n, tokens, n) for n in (images // 4, images // 2, images, 2 * images)]
    cases += [("by tokens", images, n, n) for n in (tokens // 4, tokens // 2, tokens, 2 * tokens)]
    rows = []
    for kind, m, t, shown in cases:
        times = _alternate([ours, peer], "train_step", rounds, path=_saved(sizes, ours, folder, m, t), steps=STEPS)
        rows.append(row("train_step", f"{kind}: {shown}", peer.name, *times, unit="s"))
    return rows


def train_step_features(sizes: Sizes, ours: Worker, peer: Worker, folder: Path, rounds: int) -> list[Row]:
    """Ours from the frozen encoder's features, computed before; the peer, which knows no such thing, from pixels."""
    path = _saved(sizes, ours, folder, sizes.train_images, sizes.train_tokens)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        times[0].append(_step(ours.ask("train_step", path=path, steps=STEPS, features=True)["result"]))
        times[1].append(_step(peer.ask("train_step", path=path, steps=STEPS)["result"]))
    case = f"{_counted(sizes.train_images)}, {sizes.train_tokens} tokens"
    return [row("train_step_features", case, peer.name, *times, unit="s")]


def memory(sizes: Sizes, ours: Worker, peers: Sequence[Worker], folder: Path) -> list[Row]:
    """The most that a process held while it trained: model, optimizer, activations, libraries."""
    path = _saved(sizes, ours, folder, sizes.train_images, sizes.train_tokens)
    peaks = [worker.ask("train_step", path=path, steps=STEPS)["peak"] for worker in (ours, *peers)]
    case = f"training, {_counted(sizes.train_images)}, {sizes.train_tokens} tokens"
    return [row("memory", case, p.name, peaks[:1], [peak], "MB") for p, peak in zip(peers, peaks[1:], strict=True)]


def _alternate(workers: Sequence[Worker], do: str, rounds: int, **request: object) -> list[list[float]]:
    """For each worker its seconds in each round; a result that is a list is of several steps."""
    times: list[list[float]] = [[] for _ in workers]
    for _ in range(rounds):
        for worker, own in zip(workers, times, strict=True):
            result = worker.ask(do, **request)["result"]
            own.append(_step(result) if isinstance(result, list) else result)
    return times


def _step(seconds: Sequence[float]) -> float:
    return statistics.median(seconds[1:])


def _saved(sizes: Sizes, ours: Worker, folder: Path, images: int, tokens: int) -> str:
    path = folder / "batch.pt"
    torch.save(batch(sizes, images, tokens, ours.ask("image_token")["result"]), path)
    return str(path)


def _counted(images: int) -> str:
    return f"{images} image" + "s" * (images != 1)
