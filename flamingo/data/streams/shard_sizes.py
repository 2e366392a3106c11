"""The shards of a source and the number of samples of each, which are all that the order of draws needs."""

import glob
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.streams.shard_index import cache_folder, kept_index, open_index
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.kinds import import_name
from flamingo.utils.reading import json_object

log = logging.getLogger(__name__)

#: Keeps a shard on the disk while a block runs. Shards at URLs are downloaded.
Opened = Callable[[Path], AbstractContextManager[Any]]

#: The file with the number of samples of each shard of its folder, by the shard's name.
SIZES = "sizes.json"


def list_shards(root: str, format: str) -> list[Path]:
    """Returns the shards of a folder, a pattern or a single file, in the order of their names.

    Raises:
        UserError: If there are none.
    """
    place = Path(root)
    if place.is_dir():
        patterns = [f"{glob.escape(root)}/{pattern}" for pattern in SHARD_FORMATS[format].files]
    else:
        patterns = [root]
    found: set[str] = set()
    for pattern in patterns:
        found.update(glob.glob(pattern, recursive=True))  # noqa: PTH207  # pathlib's glob takes no absolute pattern
    if not found:
        raise UserError(f"{root} has no shard of the format {format}: {SHARD_FORMATS[format].looks}")
    return [Path(name) for name in sorted(found)]


def shard_sizes(
    shards: Sequence[Path], format: str, cache: Path | None, arguments: str = ""
) -> Int64[np.ndarray, " shards"]:
    """Returns the number of samples of each shard: of the file of sizes, else of the format's own, else of its index.

    Args:
        shards: The shards.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        cache: The folder of sizes and indexes; None: beside the shards.
        arguments: The arguments of the command that writes sizes, for the error; empty: the folder of the shards.

    Raises:
        UserError: If the size of a shard is not known; the error names the command that writes it.
    """
    known = _known_sizes(shards, format, cache)
    unknown = [shard for shard, size in zip(shards, known, strict=True) if size is None]
    if unknown:
        root = f"root='{unknown[0].parent}'"
        raise UserError(
            f"the number of samples of {len(unknown)} of {len(shards)} shards is not known, such as {unknown[0]}: run "
            f"python -m experiments.index {arguments or root} format={format}"
        )
    return np.array(known, dtype=np.int64)


def write_sizes(
    shards: Sequence[Path], format: str, cache: Path | None, num_workers: int, opened: Opened = nullcontext
) -> dict[Path, int]:
    """Makes the missing indexes of shards in several processes, and writes the file of sizes of each folder.

    A shard that cannot be read is logged, and has 0 samples. One that cannot be downloaded is logged, and has no size.

    Args:
        shards: The shards.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        cache: The folder of sizes and indexes; None: beside the shards.
        num_workers: The number of processes.
        opened: Keeps a shard on the disk while a block runs.

    Returns:
        The number of samples of each shard.
    """
    sizes: dict[Path, int] = {}
    indexed = partial(_indexed, format=format, cache=cache, opened=opened)
    with ProcessPoolExecutor(num_workers) as pool:
        counts = pool.map(indexed, shards, chunksize=1)
        for shard, (count, fault) in tqdm(zip(shards, counts, strict=True), "indexing", len(shards), unit=" shards"):
            if fault:
                log.warning("%s is left out: %s", shard, fault)
            if count is not None:
                sizes[shard] = count
    by_folder: dict[Path, dict[str, int]] = {}
    for shard, count in sizes.items():
        by_folder.setdefault(cache_folder(shard, cache), {})[shard.name] = count
    for folder, counts_of_folder in by_folder.items():
        merged = read_sizes(folder) | counts_of_folder
        write_text(folder / SIZES, json.dumps(dict(sorted(merged.items())), indent=0) + "\n")
    return sizes


def _indexed(shard: Path, format: str, cache: Path | None, opened: Opened) -> tuple[int | None, str]:
    """Returns the number of samples of a shard, whose index is then on disk, and why it cannot be read.

    The number is None if the shard cannot be downloaded. That may succeed later.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(opened(shard))
        except UserError as error:
            return None, str(error)
        try:
            return len(open_index(shard, format, cache)), ""
        except UserError as error:
            return 0, str(error)


def _known_sizes(shards: Sequence[Path], format: str, cache: Path | None) -> list[int | None]:
    count = SHARD_FORMATS[format].count
    own_count = None if count is None else import_name(count)
    sizes_of_folder: dict[Path, dict[str, int]] = {}
    known: list[int | None] = []
    for shard in shards:
        folder = cache_folder(shard, cache)
        if folder not in sizes_of_folder:
            sizes_of_folder[folder] = read_sizes(folder)
        size = sizes_of_folder[folder].get(shard.name)
        # The copy of a shard at a URL need not exist.
        if size is None and own_count is not None and shard.exists():
            size = own_count(shard)
        if size is None:
            index = kept_index(shard, format, cache)
            size = None if index is None else len(index)
        known.append(size)
    return known


def read_sizes(folder: Path) -> dict[str, int]:
    """Returns the sizes in a folder by the name of the shard; none without a file.

    Raises:
        UserError: If the file is damaged.
    """
    file = folder / SIZES
    try:
        values: dict[str, Any] = json_object(file.read_bytes(), str(file))
    except FileNotFoundError:
        return {}
    for name, value in values.items():
        if type(value) is not int or value < 0:
            raise UserError(f"{file}: the number of samples of {name} is {value!r}: remove the file")
    return values
