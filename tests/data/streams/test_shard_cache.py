"""The cache of shards is bounded, and copies in use stay."""

import multiprocessing
import os

import pytest

from flamingo.data.streams.shard_cache import ShardCache
from flamingo.utils.io import write_bytes


class Cache:
    """A cache of files of 100 bytes, and the names of those that were made."""

    def __init__(self, folder, limit):
        self.cache, self.made = ShardCache(folder, limit), []

    def opened(self, name, size=100):
        file = self.cache.folder / "store" / name

        def make():
            self.made.append(name)
            write_bytes(file, b"x" * size)
            write_bytes(file.with_name(f"{name}.index"), b"")

        return self.cache.opened(file, make)

    def use(self, *names):
        for name in names:
            with self.opened(name):
                pass

    def names(self):
        return sorted(path.name for path in (self.cache.folder / "store").iterdir() if path.suffix != ".index")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 300)


def test_the_least_recently_used_copy_makes_room(cache):
    cache.use("a", "b", "c", "a", "d")
    assert cache.made == ["a", "b", "c", "d"] and cache.names() == ["a", "c", "d"]
    assert not (cache.cache.folder / "store" / "b.index").exists()
    cache.use("b")
    assert cache.made[-1] == "b" and cache.names() == ["a", "b", "d"]


def test_a_copy_in_use_stays(cache, caplog):
    with cache.opened("a"), cache.opened("b"), cache.opened("c"):
        cache.use("d")
        assert cache.names() == ["a", "b", "c", "d"] and "in use" in caplog.text
    cache.use("e")
    assert len(cache.names()) == 3 and "e" in cache.names()


def test_use_keeps_the_time_of_change(cache):
    """The index of a shard holds as long as its time of change."""
    cache.use("a")
    file = cache.cache.folder / "store" / "a"
    os.utime(file, ns=(5, 7))
    cache.use("a")
    assert file.stat().st_mtime_ns == 7 and file.stat().st_atime_ns > 7


def test_what_a_killed_process_has_left_is_removed(cache):
    leftover = cache.cache.folder / "store" / "a.0123abcd.tmp"
    write_bytes(leftover, b"x" * 250)
    cache.use("a")
    assert leftover.exists()
    os.utime(leftover, (0, 0))
    cache.use("b")
    assert not leftover.exists() and cache.names() == ["a", "b"]


def test_a_failed_download_leaves_nothing(cache):
    def make():
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError), cache.cache.opened(cache.cache.folder / "store" / "a", make):
        raise AssertionError
    cache.use("a")
    assert cache.made == ["a"]


def _use_many(folder, seed, results):
    cache = Cache(folder, 300)
    wrong = 0
    for step in range(20):
        name = f"{(step * seed) % 7}"
        with cache.opened(name):
            wrong += (folder / "store" / name).stat().st_size != 100
    results.put((wrong, len(cache.made)))


def test_several_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_use_many, args=(tmp_path, seed, results)) for seed in (1, 2, 3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [wrong for wrong, _ in found] == [0, 0, 0] and sum(made for _, made in found) >= 7
    assert len([path for path in (tmp_path / "store").iterdir() if path.suffix != ".index"]) <= 3
