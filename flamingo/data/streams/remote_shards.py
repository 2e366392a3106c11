"""Shards at URLs: their list, their sizes, and local copies of those that are in use."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path

from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.streams.download import AbsentError, Download, file_system, is_http, is_url, store_errors
from flamingo.data.streams.shard_cache import ShardCache
from flamingo.data.streams.shard_sizes import SIZES, read_sizes
from flamingo.utils.errors import UserError
from flamingo.utils.io import write_text
from flamingo.utils.reading import json_object, lines

#: Files of stats that are read at once.
_THREADS = 16


@dataclass(frozen=True)
class RemoteShards:
    """Shards at URLs. Each has a path in the cache, where its copy lies while it is needed."""

    urls: Sequence[str]
    cache: ShardCache
    download: Download

    @cached_property
    def paths(self) -> list[Path]:
        """The paths of the copies, in the order of the URLs. They need not exist."""
        return [self.cache.folder / _folder_name(url) / url.rpartition("/")[2] for url in self.urls]

    @cached_property
    def _url_of(self) -> dict[Path, str]:
        return dict(zip(self.paths, self.urls, strict=True))

    @contextmanager
    def opened(self, path: Path) -> Iterator[None]:
        """Keeps the copy of a shard while the block runs. It is downloaded if it is missing.

        Raises:
            UserError: If it cannot be downloaded.
        """
        with self.cache.opened(path, partial(self.download.to_file, self._url_of[path], path)):
            yield

    def find_sizes(self) -> None:
        """Writes the file of sizes of each folder, from that of the store, and from the stats of img2dataset.

        Sizes that are known already are not read again.

        Raises:
            UserError: If the store fails, or a file of it is damaged.
        """
        by_folder: dict[Path, list[str]] = {}
        for path, url in zip(self.paths, self.urls, strict=True):
            by_folder.setdefault(path.parent, []).append(url)
        for folder, urls in by_folder.items():
            self._find_sizes(folder, urls)

    def _find_sizes(self, folder: Path, urls: list[str]) -> None:
        known = read_sizes(folder)
        missing = [url for url in urls if _name(url) not in known]
        if not missing:
            return
        sizes_url = f"{missing[0].rpartition('/')[0]}/{SIZES}"
        content = self.download.content(sizes_url)
        found = known | (json_object(content, sizes_url) if content is not None else {})
        missing = [url for url in missing if _name(url) not in found]
        # A store without stats is asked once.
        if missing and self._successes(missing[0]) is not None:
            with ThreadPoolExecutor(_THREADS) as pool:
                for url, number in zip(missing, pool.map(self._successes, missing), strict=True):
                    if number is not None:
                        found[_name(url)] = number
        if found != known:
            write_text(folder / SIZES, json.dumps(dict(sorted(found.items())), indent=0) + "\n")

    def _successes(self, url: str) -> int | None:
        """Returns the number of samples that img2dataset has written next to a shard; None if there is none."""
        folder, _, name = url.rpartition("/")
        stats_url = f"{folder}/{name.partition('.')[0]}_stats.json"
        content = self.download.content(stats_url)
        return None if content is None else json_object(content, stats_url).get("successes")


def urls_at(root: str, format: str, download: Download) -> list[str]:
    """Returns the URLs of the shards at a root, in the order of their names.

    Args:
        root: The URL of a folder, a pattern or a single shard; or a ``.txt`` file, on the disk or at a URL, with a
            shard in each line: a URL, or in a file at a URL a path relative to it.
        format: A name of :data:`flamingo.data.streams.SHARD_FORMATS`.
        download: How the list is downloaded.

    Raises:
        UserError: If the shards cannot be listed, or there are none.
    """
    if is_list(root):
        urls = _listed(root, download)
    elif is_http(root):
        urls = _single(root)
    else:
        urls = _globbed(root, format, download)
    if not urls:
        raise UserError(f"{root} has no shard of the format {format}: {SHARD_FORMATS[format].looks}")
    return sorted(set(urls))


def is_list(root: str) -> bool:
    """Returns whether a root is a list of shards, on the disk or at a URL."""
    return root.endswith(".txt")


def _listed(root: str, download: Download) -> list[str]:
    if is_url(root):
        content = download.content(root)
        if content is None:
            raise UserError(f"there is no list {root}")
        names = content.decode(errors="replace").splitlines()
    else:
        names = [line for _, line in lines(Path(root))]
    folder = root.rpartition("/")[0]
    stripped = [name.strip() for name in names if name.strip()]
    urls = [name if is_url(name) else f"{folder}/{name}" for name in stripped]
    for url in urls:
        if not is_url(url):
            raise UserError(f"{root}: a list on the disk must have URLs, got {url!r:.80}")
    return urls


def _single(root: str) -> list[str]:
    if root.endswith("/") or any(sign in root for sign in "*["):
        raise UserError(f"{root} cannot be listed over HTTP: give the URL of a .txt file with a shard in each line")
    return [root]


def _globbed(root: str, format: str, download: Download) -> list[str]:
    system, path = file_system(root)

    def found() -> set[str]:
        names: set[str] = set()
        with store_errors():
            system.invalidate_cache()
            patterns = [path]
            if system.isdir(path):
                patterns = [f"{path.rstrip('/')}/{pattern}" for pattern in SHARD_FORMATS[format].files]
            for pattern in patterns:
                names.update(system.glob(pattern))
        return names

    try:
        return [system.unstrip_protocol(name) for name in download.tried(root, found)]
    except AbsentError:
        return []


def _folder_name(url: str) -> str:
    """Returns the name of the folder in the cache for a folder of a store."""
    return blake2b(url.rpartition("/")[0].encode(), digest_size=8).hexdigest()


def _name(url: str) -> str:
    return url.rpartition("/")[2]
