"""WebDataset and `datasets` as workers of the benchmark of shards, in the peers' environment."""

import time
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments.benchmark.worker import Machine, run

#: The side of the images, and the images of a batch.
SIDE, BATCH = 224, 8


def pixels_of(content: bytes) -> Tensor:
    """Returns a JPEG, resized and cropped by PyTorch as CLIP's image processor does: bytes [3 h w]."""
    with PILImage.open(BytesIO(content)) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    _, height, width = pixels.shape
    short = min(height, width)
    size = [SIDE * height // short, SIDE * width // short]
    if size != [height, width]:
        pixels = F.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return pixels[:, top : top + SIDE, left : left + SIDE]


def sample_of(sample: dict[str, Any]) -> dict[str, Any]:
    """Returns the key and the pixels of a sample."""
    picture = sample["jpg"]
    content = picture if isinstance(picture, bytes) else picture["bytes"]
    return {"key": sample["__key__"], "pixels": pixels_of(content)}


def webdataset(shards: list[str], buffer: int, seed: int) -> Any:
    """Returns an endless stream of samples of WebDataset."""
    import webdataset as wds

    source = wds.WebDataset(shards, shardshuffle=len(shards), seed=seed, empty_check=False)
    return source.shuffle(buffer, initial=buffer).map(sample_of).repeat()


def datasets(shards: list[str], buffer: int, seed: int) -> Any:
    """Returns an endless stream of samples of `datasets`."""
    from datasets import Image, load_dataset

    stream = load_dataset("webdataset", data_files={"train": shards}, split="train", streaming=True)
    stream = stream.cast_column("jpg", Image(decode=False)).select_columns(["__key__", "jpg"])
    shuffled = stream.shuffle(seed=seed, buffer_size=buffer)
    return shuffled.map(sample_of, remove_columns=["__key__", "jpg"]).with_format("torch").repeat(None)


STREAMS: dict[str, Callable[..., Any]] = {"webdataset": webdataset, "datasets": datasets}


class ShardLoading:
    """The loaders of both peers."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.processes = machine.threads

    def measure(self, peer: str, shards: list[str], images: int, buffer: int, seed: int) -> float:
        """Returns seconds per image, after the first batch.

        Args:
            peer: The name of the peer.
            shards: The files of the shards.
            images: The number of images that are timed.
            buffer: The number of samples among which each process shuffles.
            seed: The seed of the order.
        """
        batches = iter(self._loader(peer, shards, buffer, seed))
        next(batches)
        begin = time.perf_counter()
        for batch in islice(batches, images // BATCH):
            assert batch["pixels"].shape == (BATCH, 3, SIDE, SIDE) and batch["pixels"].dtype == torch.uint8
        return (time.perf_counter() - begin) / (images // BATCH * BATCH)

    def save(self, peer: str, shards: list[str], buffer: int, file: str) -> None:
        """Saves the pixels of some images by their keys."""
        batches = islice(self._loader(peer, shards, buffer, seed=0), 4)
        pixels: dict[str, Tensor] = {}
        for batch in batches:
            pixels |= dict(zip(batch["key"], batch["pixels"], strict=True))
        torch.save(pixels, file)

    def _loader(self, peer: str, shards: list[str], buffer: int, seed: int) -> DataLoader[Any]:
        stream = STREAMS[peer](shards, buffer, seed)
        return DataLoader(stream, batch_size=BATCH, num_workers=self.processes, worker_init_fn=_one_thread)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


if __name__ == "__main__":
    run(ShardLoading, "measure", "save")
