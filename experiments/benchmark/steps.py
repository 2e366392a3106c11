"""Measures steps of training and of decoding on the same batches, and the memory of training."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.benchmark.materials import Sizes, make_batch
from experiments.benchmark.ratios import Ratio, make_ratio
from experiments.benchmark.worker import Worker

#: Numbers of images in prompts of equal length.
DECODED = (1, 8, 32)
PROMPT_TOKENS = 512
NEW_TOKENS = 24
#: The number of updates of a measurement. The first one allocates memory and does not count.
STEPS = 3


@dataclass
class Steps:
    """Alternating measurements of single steps of all implementations."""

    sizes: Sizes
    ours: Worker
    peers: Sequence[Worker]
    folder: Path
    rounds: int

    def decode(self) -> list[Ratio]:
        """Returns seconds per token after prompts that differ only in the number of images."""
        rows = []
        for images in DECODED:
            path = self._save_batch(images, PROMPT_TOKENS)
            times = self._alternate(self.peers, "decode", path=path, tokens=NEW_TOKENS)
            rows += self._rows("decode", _counted(images), self.peers, times, "s/token")
        return rows

    def train_step(self) -> list[Ratio]:
        """Returns seconds per training step."""
        path = self._save_batch(self.sizes.train_images, self.sizes.train_tokens)
        times = self._alternate(self.peers, "train_step", path=path, steps=STEPS)
        return self._rows("train_step", self._case(), self.peers, times, "s")

    def train_cost(self) -> list[Ratio]:
        """Returns seconds per training step by images and by tokens, for ours and the first peer."""
        images = self.sizes.train_images
        tokens = self.sizes.train_tokens
        rows = []
        for number in _multiples(images):
            rows += self._train_case(f"by images: {number}", number, tokens)
        for number in _multiples(tokens):
            rows += self._train_case(f"by tokens: {number}", images, number)
        return rows

    def _train_case(self, case: str, images: int, tokens: int) -> list[Ratio]:
        path = self._save_batch(images, tokens)
        times = self._alternate(self.peers[:1], "train_step", path=path, steps=STEPS)
        return self._rows("train_step", case, self.peers[:1], times, "s")

    def train_step_features(self) -> list[Ratio]:
        """Returns seconds per training step: ours from precomputed features, the peer from pixels."""
        path = self._save_batch(self.sizes.train_images, self.sizes.train_tokens)
        [peer] = self.peers
        our_times = []
        peer_times = []
        for _ in range(self.rounds):
            ours = self.ours.ask("train_step", path=path, steps=STEPS, features=True)
            theirs = peer.ask("train_step", path=path, steps=STEPS)
            our_times.append(_median_step(ours["result"]))
            peer_times.append(_median_step(theirs["result"]))
        times = [our_times, peer_times]
        return self._rows("train_step_features", self._case(), self.peers, times, "s")

    def memory(self) -> list[Ratio]:
        """Returns the peak memory of each training process: model, optimizer, activations, libraries."""
        path = self._save_batch(self.sizes.train_images, self.sizes.train_tokens)
        peaks = []
        for worker in [self.ours] + list(self.peers):
            answer = worker.ask("train_step", path=path, steps=STEPS)
            peaks.append([answer["peak"]])
        return self._rows("memory", f"training, {self._case()}", self.peers, peaks, "MB")

    def _alternate(self, peers: Sequence[Worker], do: str, **request: object) -> list[list[float]]:
        """Returns the seconds of each round: first of ours, then of each peer."""
        workers = [self.ours] + list(peers)
        times: list[list[float]] = [[] for _ in workers]
        for _ in range(self.rounds):
            for worker, times_of_worker in zip(workers, times, strict=True):
                result = worker.ask(do, **request)["result"]
                if isinstance(result, list):
                    result = _median_step(result)
                times_of_worker.append(result)
        return times

    def _rows(
        self,
        benchmark: str,
        case: str,
        peers: Sequence[Worker],
        times: Sequence[list[float]],
        unit: str,
    ) -> list[Ratio]:
        """Returns a row for each peer, from the times of ours and then of each peer."""
        ours, *theirs = times
        rows = []
        for peer, times_of_peer in zip(peers, theirs, strict=True):
            row = make_ratio(benchmark, case, peer.name, ours, times_of_peer, unit)
            rows.append(row)
        return rows

    def _save_batch(self, images: int, tokens: int) -> str:
        path = self.folder / "batch.pt"
        image_token = self.ours.ask("image_token")["result"]
        batch = make_batch(self.sizes, images, tokens, image_token)
        torch.save(batch, path)
        return str(path)

    def _case(self) -> str:
        images = _counted(self.sizes.train_images)
        return f"{images}, {self.sizes.train_tokens} tokens"


def _multiples(number: int) -> tuple[int, ...]:
    return number // 4, number // 2, number, 2 * number


def _median_step(seconds: Sequence[float]) -> float:
    return statistics.median(seconds[1:])


def _counted(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"
