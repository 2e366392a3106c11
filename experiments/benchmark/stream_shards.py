"""Measures starts, memory and the first batch on shards of tiny samples on the disk, and resumes on fewer processes.

python -m experiments.benchmark.stream_shards                                        100 shards, a million samples
python -m experiments.benchmark.stream_shards --shards 10 --samples 2000 --folder DIR

The first start makes the indexes of the shards that its batch needs. The second start finds them.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import psutil
from PIL import Image as PILImage

from experiments.setup.streamed_data import row_groups
from flamingo import FlamingoProcessor
from flamingo.data.builders import PairsConfig
from flamingo.data.collate import Batch
from flamingo.data.streams.group_loader import GroupLoader
from flamingo.data.streams.row_groups import RowGroups, join_rows
from flamingo.data.streams.shard_sizes import list_shards, write_sizes
from flamingo.data.streams.streamed_config import StreamedConfig, StreamedSourceConfig
from flamingo.synthetic import backbones

#: The groups of a batch: a multiple of three and of two processes.
_BATCH_SIZE = 6
#: Batches before and after the resume.
_NUM_BATCHES = 4


def main() -> None:
    """Prints the measures as JSON."""
    arguments = _arguments()
    if arguments.start:
        print(json.dumps(_start(arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        begin = time.perf_counter()
        write_shards(folder, arguments.shards, arguments.samples)
        values = {"writing (s)": time.perf_counter() - begin}
        for name in ("first", "second"):
            command = [sys.executable, "-m", "experiments.benchmark.stream_shards", "--start", "--folder", str(folder)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for measure, value in json.loads(output).items():
                values[f"{name} start: {measure}"] = value
        begin = time.perf_counter()
        write_sizes(list_shards(str(folder), "tar"), "tar", None, arguments.workers)
        values["indexing the other shards (s)"] = time.perf_counter() - begin
        values |= _resumed(folder)
        print(json.dumps(values, indent=1))


def write_shards(folder: Path, num_shards: int, num_samples: int) -> None:
    """Writes shards of pictures of one pixel, with the stats of img2dataset. Sizes differ by a factor of three."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    PILImage.new("RGB", (1, 1)).save(stream, "PNG")
    weights = [1 + shard % 3 for shard in range(num_shards)]
    number = 0
    for shard in range(num_shards):
        end = num_samples * sum(weights[: shard + 1]) // sum(weights)
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for key in range(number, end):
                _add(archive, f"{key:09}.png", stream.getvalue())
                _add(archive, f"{key:09}.txt", f"thing {key}".encode())
        (folder / f"{shard:05}_stats.json").write_text(json.dumps({"successes": end - number}))
        number = end


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _groups(folder: Path) -> RowGroups:
    source = StreamedSourceConfig(root=str(folder), format="tar", documents=PairsConfig())
    config = StreamedConfig(
        batch_size=_BATCH_SIZE, group_size=8, rows=2, pack_to=128, max_images=8, streams=12, sources={"pairs": source}
    )
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones.VISION, backbones.LANGUAGE)
    return row_groups("benchmark", config, processor, "0")


def _loader(groups: RowGroups, position: int = 0, rank: int = 0, num_ranks: int = 1) -> GroupLoader:
    loader = GroupLoader(groups, join_rows, _BATCH_SIZE, rank=rank, num_ranks=num_ranks)
    loader.position = position
    return loader


def _start(folder: Path) -> dict[str, float]:
    """Returns the measures of a start in this process."""
    process = psutil.Process()
    memory = process.memory_info().rss
    begin = time.perf_counter()
    groups = _groups(folder)
    started = time.perf_counter()
    next(iter(_loader(groups)))
    return {
        "until the data set is there (s)": started - begin,
        "first batch (s)": time.perf_counter() - started,
        "memory above imports (MB)": (process.memory_info().rss - memory) / 1e6,
        "indexes on the disk": len(list(folder.glob("*.index"))),
    }


def _resumed(folder: Path) -> dict[str, float]:
    """Returns the number of updates whose rows are equal for one process, and for three and then two processes."""
    groups = _groups(folder)
    alone = [_rows([batch]) for batch in islice(_loader(groups), 2 * _NUM_BATCHES)]
    before = [islice(_loader(groups, 0, rank, 3), _NUM_BATCHES) for rank in range(3)]
    position = _NUM_BATCHES * _BATCH_SIZE
    after = [islice(_loader(groups, position, rank, 2), _NUM_BATCHES) for rank in range(2)]
    updates = [_rows(shares) for shares in zip(*before, strict=True)]
    updates += [_rows(shares) for shares in zip(*after, strict=True)]
    equal = sum(one == other for one, other in zip(alone, updates, strict=True))
    return {"updates": len(alone), "updates with equal rows on 1 process, and on 3 and then 2": equal}


def _rows(shares: Iterable[Batch]) -> list[str]:
    """Returns digests of the rows of an update, sorted."""
    digests = []
    for batch in shares:
        tensors = {name: tensor for name, tensor in batch.tensors.items() if not name.endswith("_places")}
        for row in range(len(tensors["input_ids"])):
            digest = blake2b()
            for name in sorted(tensors):
                digest.update(tensors[name][row].numpy().tobytes())
            digests.append(digest.hexdigest())
    return sorted(digests)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the shards are written; by default a temporary folder")
    parser.add_argument("--workers", type=int, default=2, help="processes that index shards")
    parser.add_argument("--start", action="store_true", help="measure a start on the shards of the folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
