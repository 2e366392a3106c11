"""Small shards of captioned images, and data sets that are streamed from them."""

import io
import json
import tarfile
from hashlib import blake2b

from PIL import Image as PILImage

from flamingo.data.builders import PairsConfig
from flamingo.data.builders.pairs import Pairs
from flamingo.data.streams.row_groups import RowGroups, StreamedSource
from flamingo.data.streams.shard_order import ShardOrder
from flamingo.data.streams.shard_reader import ShardReader
from flamingo.data.streams.shard_sizes import SIZES, list_shards, shard_sizes
from flamingo.data.streams.stream_mixture import StreamMixture


def picture(number):
    stream = io.BytesIO()
    PILImage.new("RGB", (4, 3), (number % 250, number // 250 % 250, 7)).save(stream, "PNG")
    return stream.getvalue()


def pair(key, number, caption=None):
    """The members of a sample."""
    metadata = {"caption": f"thing {number}" if caption is None else caption}
    return [(f"{key}.png", picture(number)), (f"{key}.json", json.dumps(metadata).encode())]


def write_shard(file, members):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def write_pairs(folder, *sizes, first=0):
    """Shards of these sizes. Samples have the numbers from ``first`` on, which are their keys."""
    for shard, size in enumerate(sizes):
        members = [member for number in range(first, first + size) for member in pair(f"{number:06}", number)]
        write_shard(folder / f"{shard:05}.tar", members)
        first += size
    counts = {f"{shard:05}.tar": size for shard, size in enumerate(sizes)}
    (folder / SIZES).write_text(json.dumps(counts))
    return folder


def source(folder, processor, streams=2, group_size=3, window=4, seed=0):
    shards = list_shards(str(folder), "tar")
    order = ShardOrder(shard_sizes(shards, "tar", None), streams, group_size, window, seed)
    return StreamedSource(order, ShardReader(shards, "tar"), Pairs(PairsConfig(), processor, seed))


def groups(processor, streams=2, rows=2, pack_to=32, max_images=4, weights=None, epochs=None, **sources):
    orders = {name: one.order for name, one in sources.items()}
    of_one = dict.fromkeys(sources, 1.0) | (weights or {})
    mixture = StreamMixture(orders, of_one, dict.fromkeys(sources) | (epochs or {}), streams, seed=0)
    return RowGroups(sources, mixture, processor, rows, pack_to, max_images)


def rows_of(batch):
    """Returns a digest of each row: its tokens, labels and images."""
    digests = []
    for row in range(len(batch.tensors["input_ids"])):
        digest = blake2b()
        for name in ("input_ids", "labels", "image_index", "segment_ids", "pixel_values"):
            digest.update(batch.tensors[name][row].numpy().tobytes())
        digests.append(digest.hexdigest())
    return digests
