"""Shards at URLs are read like those on the disk, from copies that failing and slow stores cannot spoil."""

import json
import shutil
import threading

import fsspec
import pytest

from flamingo.data.document import Readable
from flamingo.data.streams.download import Download
from flamingo.data.streams.shard_reader import BrokenShardError
from flamingo.data.streams.shard_sizes import SIZES
from flamingo.data.streams.source_shards import source_shards
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from tests.data.streams.shards import write_pairs
from tests.data.streams.stores import note_pauses, put_into_memory, served


@pytest.fixture
def folder(tmp_path):
    return write_pairs(tmp_path / "data", 3, 2)


@pytest.fixture
def server(folder):
    with served(folder) as server:
        yield server


def remote(root, tmp_path, gigabytes=1.0, timeout=5.0, attempts=3):
    return source_shards(root, "tar", str(tmp_path / "cache"), gigabytes, Download(timeout, attempts))


def contents(shards):
    reader = shards.reader(None)
    return [reader.sample(shard, sample) for shard, size in enumerate(shards.sizes()) for sample in range(size)]


def test_samples_of_a_store_are_those_of_the_disk(folder, server, tmp_path):
    (folder / "list.txt").write_text(f"00001.tar\n\n{server.url}/00000.tar\n")
    memory = put_into_memory(folder, "same")
    on_disk = contents(source_shards(str(folder), "tar", None))
    roots = (memory, f"{memory}/*.tar", f"{memory}/list.txt", f"{server.url}/list.txt")
    for number, root in enumerate(roots):
        read = contents(remote(root, tmp_path / str(number)))
        assert [(one.id, one.captions) for one in read] == [(one.id, one.captions) for one in on_disk]
        for one, other in zip(read, on_disk, strict=True):
            assert open_image(one.image.frames[0]).getpixel((0, 0)) == open_image(other.image.frames[0]).getpixel(
                (0, 0)
            )
    single = remote(f"{server.url}/00001.tar", tmp_path / "single")
    assert [one.id for one in contents(single)] == ["000003", "000004"]


def test_a_list_on_the_disk_has_urls(server, tmp_path):
    file = tmp_path / "shards.txt"
    file.write_text(f"{server.url}/00001.tar\n\n")
    assert [one.id for one in contents(remote(str(file), tmp_path))] == ["000003", "000004"]
    file.write_text("00001.tar\n")
    with pytest.raises(UserError, match=r"shards\.txt: .* must have URLs"):
        remote(str(file), tmp_path)


def test_a_shard_is_downloaded_when_it_is_opened_and_once(server, tmp_path):
    shards = remote(f"{server.url}/00001.tar", tmp_path)
    shards.sizes()
    assert server.requests == [SIZES]
    for _ in range(2):
        assert shards.reader(None).sample(0, 1).id == "000004"
        shards = remote(f"{server.url}/00001.tar", tmp_path)
        shards.sizes()
    assert server.requests == [SIZES, "00001.tar"]


def test_pictures_outlive_the_copy_of_their_shard(server, tmp_path):
    record = remote(f"{server.url}/00001.tar", tmp_path).reader(None).sample(0, 0)
    shutil.rmtree(tmp_path / "cache")
    frame = record.image.frames[0]
    assert isinstance(frame, Readable) and open_image(frame).getpixel((0, 0))[0] == 3


def test_sizes_come_from_the_stats_of_img2dataset(folder, server, tmp_path):
    (folder / SIZES).unlink()
    (folder / "list.txt").write_text("00000.tar\n00001.tar\n")
    root = f"{server.url}/list.txt"
    with pytest.raises(UserError, match=r"2 of 2 shards.*experiments\.index root='http.*list\.txt' cache="):
        remote(root, tmp_path).sizes()
    for shard, size in enumerate((3, 2)):
        (folder / f"{shard:05}_stats.json").write_text(json.dumps({"count": 9, "successes": size}))
    assert remote(root, tmp_path).sizes().tolist() == [3, 2]
    # They are kept.
    num_requests = len(server.requests)
    assert remote(root, tmp_path).sizes().tolist() == [3, 2]
    assert len(server.requests) == num_requests + 1  # the list


def test_the_sizes_of_a_store_are_counted_by_the_command(folder, server, tmp_path, monkeypatch, caplog):
    (folder / SIZES).unlink()
    (folder / "list.txt").write_text("00000.tar\n00001.tar\n00002.tar\n00003.tar\n")
    (folder / "00002.tar").write_bytes(b"no tar at all")
    shards = remote(f"{server.url}/list.txt", tmp_path)
    server.faults["00003.tar"] = ["failing"] * 99
    monkeypatch.setattr("flamingo.data.streams.shard_sizes.ProcessPoolExecutor", _InProcess)
    note_pauses(monkeypatch)
    assert list(shards.write_sizes(1).values()) == [3, 2, 0]
    # A shard that cannot be downloaded may be readable later.
    with pytest.raises(UserError, match="1 of 4 shards"):
        shards.sizes()
    write_pairs(folder, 3, 2, 1, 4)
    (folder / SIZES).unlink()
    server.faults.clear()
    assert list(shards.write_sizes(1).values()) == [3, 2, 0, 4]


class _InProcess:
    def __init__(self, num_workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def map(self, function, items, chunksize):
        return map(function, items)


@pytest.mark.parametrize("fault", ["failing", "slow", "cut off"])
def test_a_store_that_fails_at_first_is_tried_again(fault, server, tmp_path, monkeypatch, caplog):
    pauses = note_pauses(monkeypatch)
    server.faults["00000.tar"] = [fault] * 2
    shards = remote(f"{server.url}/00000.tar", tmp_path, timeout=0.1 if fault == "slow" else 5.0)
    assert [one.id for one in contents(shards)] == ["000000", "000001", "000002"]
    assert pauses == [1, 2] and caplog.text.count("00000.tar: attempt") == 2
    assert server.requests.count("00000.tar") == 3


def test_a_shard_that_no_attempt_reads_is_broken(server, tmp_path, monkeypatch, caplog):
    pauses = note_pauses(monkeypatch)
    server.faults["00000.tar"] = ["failing"] * 99
    reader = remote(f"{server.url}/00000.tar", tmp_path, attempts=4).reader(None)
    for sample in range(2):
        with pytest.raises(BrokenShardError, match="attempt 4 of 4"):
            reader.sample(0, sample)
    # A second sample of the shard costs no attempts.
    assert pauses == [1, 2, 4] and server.requests.count("00000.tar") == 4
    assert caplog.text.count("a shard is left out") == 1
    assert not list((tmp_path / "cache").rglob("*.t*"))


def test_a_shard_that_is_absent_is_not_tried_again(server, tmp_path, monkeypatch):
    pauses = note_pauses(monkeypatch)
    reader = remote(f"{server.url}/00009.tar", tmp_path).reader(None)
    with pytest.raises(BrokenShardError, match="404"):
        reader.sample(0, 0)
    assert not pauses and server.requests == ["00009.tar"]


def test_a_failing_file_system_is_tried_again(folder, tmp_path, monkeypatch):
    root = put_into_memory(folder, "failing")
    system = fsspec.filesystem("memory")
    opened, failures = type(system).open, [OSError("the first"), RuntimeError("the second")]

    def failing(self, path, *arguments, **options):
        if path.endswith(".tar") and failures:
            raise failures.pop(0)
        return opened(self, path, *arguments, **options)

    monkeypatch.setattr(type(system), "open", failing)
    pauses = note_pauses(monkeypatch)
    assert len(contents(remote(f"{root}/00000.tar", tmp_path))) == 3
    assert pauses == [1, 2]


def test_a_file_system_that_never_answers_is_given_up(folder, tmp_path, monkeypatch, caplog):
    root = put_into_memory(folder, "slow")
    system = fsspec.filesystem("memory")
    opened, released = type(system).open, threading.Event()

    def slow(self, path, *arguments, **options):
        if path.endswith(".tar"):
            released.wait(10)
        return opened(self, path, *arguments, **options)

    monkeypatch.setattr(type(system), "open", slow)
    note_pauses(monkeypatch)
    reader = remote(f"{root}/00000.tar", tmp_path, timeout=0.05, attempts=2).reader(None)
    with pytest.raises(BrokenShardError, match="slower"):
        reader.sample(0, 0)
    released.set()
    assert caplog.text.count("slower") == 3  # two attempts, and the shard that is left out


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("memory://nothing", "no shard"),
        ("nonsense://a/b.tar", "nonsense"),
        ("http://127.0.0.1:9/folder/", "list"),
        ("memory://nothing/list.txt", "no list"),
    ],
)
def test_a_root_without_shards_is_refused(root, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        remote(root, tmp_path)


def test_shards_at_urls_need_a_cache():
    with pytest.raises(UserError, match="cache must be"):
        source_shards("memory://a", "tar", None)
