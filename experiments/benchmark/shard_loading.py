"""Measures images per second from shards: ours, Pillow alone, WebDataset, `datasets`; of reduced JPEGs.

python -m experiments.benchmark.shard_loading                         2,000 JPEGs of 500 x 375, ten minutes
python -m experiments.benchmark.shard_loading --shards 'DIR/*.tar'    your shards, KEY.jpg with KEY.json or KEY.txt
python -m experiments.benchmark.shard_loading --images 200 --passes 1 --rounds 1      a test

All resize to 224 pixels as CLIP does, shuffle with the same buffer, and run in the same number of processes. A ratio is
theirs / ours in time: above 1 ours is better. The largest difference between pixels is printed.
"""

import argparse
import glob
import io
import json
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from experiments.benchmark.image_loading import begin_process
from experiments.benchmark.ratios import Ratio, make_ratio
from experiments.benchmark.shard_loading_worker import BATCH, SIDE, STREAMS
from experiments.benchmark.worker import Machine, Worker
from experiments.setup.streamed_data import row_groups
from flamingo import FlamingoProcessor
from flamingo.data.builders import PairsConfig
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.records.record import Record
from flamingo.data.streams.group_loader import GroupLoader
from flamingo.data.streams.row_groups import RowGroups, join_rows
from flamingo.data.streams.shard_sizes import write_sizes
from flamingo.data.streams.streamed_config import StreamedConfig, StreamedSourceConfig
from flamingo.data.transforms.pixels import resized
from flamingo.synthetic import backbones

#: Samples of a shard that is written.
_SHARD = 500
#: The files, widths and heights of the pictures that are reduced.
_LARGE = (20, 2000, 1500)
#: Where a JPEG lies: the shard, the offset and the number of bytes.
Place = tuple[str, int, int]


def main() -> None:
    """Prints the rows as JSON lines."""
    arguments = _arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = sorted(map(Path, glob.glob(arguments.shards))) if arguments.shards else []  # noqa: PTH207
        if not shards:
            shards = _write_shards(folder / "shards", arguments.images)
        machine = Machine(arguments.processes, "cpu", "fp32")
        peer = Worker("peers", arguments.peers, "experiments.benchmark.shard_loading_worker", folder, machine)
        loading = _Loading(shards, folder, arguments, peer)
        for row in loading.rows():
            print(json.dumps(asdict(row)), flush=True)
        print(f"largest difference between pixels: {loading.differences()}", flush=True)
        peer.close()
        if not arguments.shards:
            _measure_draft(folder / "large", arguments.rounds)


class _Loading:
    """All loaders on the same shards."""

    def __init__(self, shards: list[Path], folder: Path, arguments: argparse.Namespace, peer: Worker) -> None:
        self.shards, self.folder, self.peer = shards, folder, peer
        self.root = arguments.shards or str(folder / "shards")
        self.processes, self.buffer, self.rounds = arguments.processes, arguments.buffer, arguments.rounds
        self.places = _places(shards)
        self.images = len(self.places) * arguments.passes // BATCH * BATCH
        tokenizer = AutoTokenizer.from_pretrained(backbones.LANGUAGE)
        self.image_processor = CLIPImageProcessorPil()
        self.processor = FlamingoProcessor(self.image_processor, tokenizer)

    def rows(self) -> list[Ratio]:
        """Returns seconds per image, ours against each other: our pixels alone, and with token ids in packed rows."""
        ours: dict[str, list[float]] = {"pixels": [], "documents": []}
        others: dict[str, list[float]] = {name: [] for name in ("pillow", *STREAMS)}
        for turn in range(self.rounds):
            ours["pixels"].append(self._our_pixels(turn))
            ours["documents"].append(self._our_documents(turn))
            others["pillow"].append(self._pillow(turn))
            for name in STREAMS:
                others[name].append(self._ask("measure", name, images=self.images, seed=turn))
        rows = []
        for result, our_times in ours.items():
            case = f"{result}, {len(self.places)} images, {self.processes} processes"
            rows += [make_ratio("shards", case, name, our_times, times, "s/image") for name, times in others.items()]
        return rows

    def differences(self) -> dict[str, int]:
        """Returns the largest difference between our pixels and those of each other, in levels of 255."""
        largest: dict[str, int] = {}
        contents = {Path(key).stem: content for key, content in _contents(self.shards, 64).items()}
        for name in STREAMS:
            file = self.folder / f"{name}.pt"
            self._ask("save", name, file=str(file), first_shard=True)
            theirs = torch.load(file)
            largest[name] = _difference(self.image_processor, theirs, contents)
        theirs = {key: torch.from_numpy(resized_by_pillow(content)) for key, content in contents.items()}
        largest["pillow"] = _difference(self.image_processor, theirs, contents)
        return largest

    def _ask(self, do: str, peer: str, first_shard: bool = False, **request: object) -> float:
        shards = [str(shard) for shard in self.shards]
        answer = self.peer.ask(do, peer=peer, shards=shards, buffer=1 if first_shard else self.buffer, **request)
        return answer["result"]

    def _our_pixels(self, seed: int) -> float:
        pixels = _Pixels(self._groups(seed))
        batches = iter(GroupLoader(pixels, _only, batch_size=1, num_workers=self.processes))
        next(batches)
        begin = time.perf_counter()
        for batch in islice(batches, self.images // BATCH):
            assert batch.shape == (BATCH, 1, 3, SIDE, SIDE)
        return (time.perf_counter() - begin) / self.images

    def _our_documents(self, seed: int) -> float:
        groups = self._groups(seed)
        batches = iter(GroupLoader(groups, join_rows, batch_size=1, num_workers=self.processes))
        next(batches)
        begin = time.perf_counter()
        count = 0
        while count < self.images:
            batch = next(batches)
            assert batch.tensors["pixel_values"].shape == (2, BATCH // 2, 1, 3, SIDE, SIDE)
            count += batch.sizes.images
        return (time.perf_counter() - begin) / count

    def _groups(self, seed: int) -> RowGroups:
        cache = self.folder / "index"
        write_sizes(self.shards, "tar", cache, num_workers=1)
        source = StreamedSourceConfig(root=self.root, format="tar", cache=str(cache), documents=PairsConfig())
        config = StreamedConfig(
            batch_size=1,
            group_size=BATCH,
            rows=2,
            pack_to=256,
            max_images=BATCH // 2,
            streams=1,
            window=self.buffer,
            sources={"pairs": source},
        )
        return row_groups("pairs", config, self.processor, str(seed))

    def _pillow(self, seed: int) -> float:
        """Returns seconds per image of reading, decoding, resizing and cropping, whose results stay in the process."""
        places = self.places * (self.images // len(self.places) + 1)
        random.Random(seed).shuffle(places)
        with ProcessPoolExecutor(self.processes, initializer=begin_process) as pool:
            list(pool.map(_read_and_resize, places[: 2 * self.processes]))  # the processes have started
            begin = time.perf_counter()
            list(pool.map(_read_and_resize, places[: self.images], chunksize=BATCH))
            return (time.perf_counter() - begin) / self.images


class _Pixels:
    """The images of each group of a stream, without their texts."""

    def __init__(self, groups: RowGroups) -> None:
        self.processor, self.mixture = groups.processor, groups.mixture
        [self.source] = groups.sources.values()

    def __getitem__(self, group: int) -> Tensor:
        chosen = self.mixture.at(group)
        places = self.source.order.group(chosen.stream, chosen.number)
        images = []
        for place in places:
            sample = self.source.reader.sample(place.shard, place.sample)
            assert isinstance(sample, Record)
            images.append(sample.image)
        return self.processor.pixel_values(images, as_bytes=True)


def _only(groups: list[Tensor]) -> Tensor:
    """Returns the only group of a batch."""
    [pixels] = groups
    return pixels


def jpeg_bytes(number: int, width: int, height: int) -> bytes:
    """Returns a JPEG. Enlarged noise has the size and smoothness of a photograph."""
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PILImage.fromarray(noise).resize((width, height)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _write_shards(folder: Path, images: int) -> list[Path]:
    folder.mkdir()
    files = []
    for first in range(0, images, _SHARD):
        files.append(folder / f"{first // _SHARD:05}.tar")
        with tarfile.open(files[-1], "w") as archive:
            for number in range(first, min(first + _SHARD, images)):
                picture = jpeg_bytes(number, 500, 375)
                for suffix, content in (("jpg", picture), ("txt", b"a thing")):
                    member = tarfile.TarInfo(f"{number:06}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return files


def _places(shards: Sequence[Path]) -> list[Place]:
    places = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            pictures = [member for member in archive if member.name.endswith(".jpg")]
        places += [(str(shard), member.offset_data, member.size) for member in pictures]
    return places


def _contents(shards: Sequence[Path], number: int) -> dict[str, bytes]:
    """Returns JPEGs of each shard by their names."""
    contents = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            pictures = [member for member in archive if member.name.endswith(".jpg")]
            for member in pictures[:number]:
                stream = archive.extractfile(member)
                assert stream is not None
                contents[member.name] = stream.read()
    return contents


def _read_and_resize(place: Place) -> None:
    file, offset, size = place
    with open(file, "rb") as stream:  # noqa: PTH123
        stream.seek(offset)
        resized_by_pillow(stream.read(size))


def resized_by_pillow(content: bytes) -> np.ndarray:
    """Returns a JPEG, resized and cropped by Pillow as CLIP's image processor does: bytes [3 h w]."""
    with PILImage.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    short = min(picture.size)
    width, height = SIDE * picture.width // short, SIDE * picture.height // short
    picture = picture.resize((width, height), PILImage.Resampling.BICUBIC)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return np.array(picture.crop((left, top, left + SIDE, top + SIDE))).transpose(2, 0, 1)


def _difference(image_processor: CLIPImageProcessorPil, theirs: dict[str, Tensor], contents: dict[str, bytes]) -> int:
    """Returns the largest difference between the pixels of another loader and ours, in levels of 255."""
    largest = 0
    shared = theirs.keys() & contents.keys()
    assert shared, "the loaders have no image in common"
    for key in shared:
        [ours] = resized(image_processor, [EmbeddedPicture(key, contents[key])])
        largest = max(largest, int((ours.short() - theirs[key].short()).abs().max()))
    return largest


def _measure_draft(folder: Path, rounds: int) -> None:
    """Prints how much faster large JPEGs are decoded at a part of their size, and the largest difference."""
    folder.mkdir()
    number, width, height = _LARGE
    frames = [folder / f"{one}.jpg" for one in range(number)]
    for one, frame in enumerate(frames):
        frame.write_bytes(jpeg_bytes(one, width, height))
    load = partial(resized, CLIPImageProcessorPil(), frames)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for draft, seconds in times.items():
            begin = time.perf_counter()
            load(draft=draft)
            seconds.append((time.perf_counter() - begin) / number)
    difference = (load(draft=True).short() - load(draft=False).short()).abs()
    ratios = [whole / reduced for whole, reduced in zip(times[False], times[True], strict=True)]
    print(
        f"draft, {width} x {height} pixels: {statistics.median(ratios):.2f} times "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {statistics.median(times[True]):.4f} s/image; "
        f"difference of pixels: {difference.max()} at most, {difference.float().mean():.2f} on average"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=".loader_peers/bin/python", help="Python of the peers")
    parser.add_argument("--shards", help="a pattern of tar files, in quotes")
    parser.add_argument("--images", type=int, default=2000, help="JPEGs that are written")
    parser.add_argument("--passes", type=int, default=2, help="how often a measurement reads all images")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each loader, in turn")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--buffer", type=int, default=1000, help="samples among which images are shuffled")
    return parser.parse_args()


if __name__ == "__main__":
    main()
