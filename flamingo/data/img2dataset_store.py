"""A store of pictures by their URLs: an output folder of img2dataset, whose URLs are indexed once."""

import logging
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from flamingo.data.document import Image
from flamingo.data.readers.columns import PICTURE_COLUMNS
from flamingo.data.readers.parquet_shards import ParquetCell
from flamingo.data.readers.parquet_tables import group_places, opened_table
from flamingo.data.readers.tar_members import TarMember
from flamingo.data.streams.shard_index import ShardIndex, cache_folder, open_index
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file

log = logging.getLogger(__name__)

#: Where the picture of a URL is: the number of its table, its row in it, its number among the pictures, and its key.
_PLACE = np.dtype([("table", "<u4"), ("row", "<u4"), ("number", "<u4"), ("key", "S20")])
#: The columns of a table that are needed.
_COLUMNS = ("url", "key", "status")
#: The most tar files whose indexes are open at once.
_OPEN_INDEXES = 128


class Img2datasetStore:
    """The pictures of an output folder of img2dataset, in any of its formats, by the column ``url`` of its tables.

    The index of the URLs has 40 bytes for each picture. It is kept in two files, which are mapped into memory.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """Opens the store. Its URLs are indexed if there is no index, or the tables have changed since.

        Args:
            folder: The output folder.
            cache: The folder of the indexes; None: the output folder.

        Raises:
            UserError: If there are no tables, one cannot be read, or the index cannot be written.
        """
        self.cache = cache
        self.tables = sorted(folder.glob("*.parquet"))
        if not self.tables:
            raise UserError(f"{folder} has no tables of img2dataset, such as 00000.parquet")
        kept = cache_folder(self.tables[0], cache)
        digest = _digest(self.tables)
        hashes, places = kept / f"urls.{digest}.hashes.npy", kept / f"urls.{digest}.places.npy"
        if not (hashes.exists() and places.exists()):
            _write_index(self.tables, hashes, places)
        self._hashes = np.load(hashes, mmap_mode="r")
        self._places = np.load(places, mmap_mode="r")
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self._opened)

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, url: str) -> Image | None:
        """Returns the picture of a URL; None if its download has failed, or it is not in the store."""
        wanted = _hash(url)
        position = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        if position == len(self._hashes) or int(self._hashes[position]) != wanted:
            return None
        place = self._places[position]
        table, key = self.tables[int(place["table"])], place["key"].decode()
        if table.with_suffix(".tar").exists():
            return self._in_tar(table.with_suffix(".tar"), int(place["number"]), key)
        if table.with_suffix("").is_dir():
            files = [table.with_suffix("") / f"{key}.{suffix}" for suffix in PICTURE_COLUMNS]
            return next((Image(str(file)) for file in files if file.exists()), None)
        return _in_table(table, int(place["row"]))

    def _in_tar(self, tar: Path, number: int, key: str) -> Image | None:
        index = self._index(tar)
        if index is None or number >= len(index):
            return None
        own_key, parts = index[number]
        if own_key != key:  # the tar file is not that of the table
            return None
        members = [parts[suffix] for suffix in PICTURE_COLUMNS if suffix in parts]
        return Image(TarMember(str(tar), *members[0])) if members else None

    def _opened(self, tar: Path) -> ShardIndex | None:
        """Returns the index of a tar file; None if it cannot be read."""
        try:
            return open_index(tar, "tar", self.cache)
        except UserError as error:
            log.warning("the pictures of a shard are missing: %s", error)
            return None


def images_at(folder: str | None, cache: str | None = None) -> Path | UrlStore | None:
    """Returns the place of images: a store of them if the folder is an output of img2dataset, else the folder.

    Args:
        folder: The folder; None: there is none.
        cache: The folder of the store's indexes; None: the folder itself.

    Raises:
        UserError: If the store cannot be opened.
    """
    if folder is None:
        return None
    path = Path(folder)
    if next(path.glob("*_stats.json"), None) is None:
        return path
    return Img2datasetStore(path, None if cache is None else Path(cache))


def _in_table(table: Path, row: int) -> Image | None:
    """Returns the picture of a row; None if the table has no pictures."""
    column, places = _pictures_of(str(table))
    if column is None:
        return None
    group, row_of_group, _ = places[row]
    return Image(ParquetCell(str(table), column, group, row_of_group))


@lru_cache(maxsize=64)
def _pictures_of(table: str) -> tuple[str | None, list[list[int]]]:
    """Returns the column of the pictures of a table, and the places of its rows."""
    opened = opened_table(table)
    names = opened.schema_arrow.names
    column = next((name for name in PICTURE_COLUMNS if name in names), None)
    return column, group_places(opened)


def _write_index(tables: list[Path], hashes_file: Path, places_file: Path) -> None:
    hashes: list[Any] = []
    places: list[Any] = []
    for number, table in enumerate(tables):
        of_table, hashes_of_table = _places_of(number, table)
        places.append(of_table)
        hashes.append(hashes_of_table)
    all_hashes = np.concatenate(hashes)
    order = np.argsort(all_hashes, kind="stable")
    log.info("%d URLs of %d tables are indexed: %s", len(order), len(tables), places_file.parent)
    for file, values in ((hashes_file, all_hashes[order]), (places_file, np.concatenate(places)[order])):
        with atomic_file(file, "wb") as stream:
            np.save(stream, values)


def _places_of(number: int, table: Path) -> tuple[Any, Any]:
    """Returns the places and the hashes of the URLs of a table whose downloads succeeded.

    Raises:
        MemoryError: If the table does not fit into memory.
        UserError: If the table cannot be read, or lacks a column.
    """
    try:
        columns = opened_table(str(table)).read(columns=list(_COLUMNS), use_threads=False).to_pydict()
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises exceptions of many types
        raise UserError(f"{table} cannot be read: {error}") from error
    if len(columns) < len(_COLUMNS):
        raise UserError(f"{table} is no table of img2dataset: it lacks one of {', '.join(_COLUMNS)}")
    rows = [row for row, status in enumerate(columns["status"]) if status == "success"]
    places = np.zeros(len(rows), _PLACE)
    places["table"] = number
    places["row"] = rows
    # img2dataset writes tables and tar files in the same order.
    places["number"] = np.arange(len(rows))
    places["key"] = [columns["key"][row].encode() for row in rows]
    return places, np.array([_hash(columns["url"][row]) for row in rows], np.uint64)


def _hash(url: str) -> int:
    return int.from_bytes(blake2b(url.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _digest(tables: list[Path]) -> str:
    """Returns a checksum of the names, sizes and times of the tables."""
    digest = blake2b(digest_size=8)
    for table in tables:
        status = table.stat()
        digest.update(f"{table.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
