"""The index of a shard is made once, and the sizes of shards come from what lies next to them."""

import json
import os
import shutil

import pytest

from flamingo.data.readers import tar_shards
from flamingo.data.streams.shard_index import index_file, open_index
from flamingo.data.streams.shard_reader import BrokenShardError, ShardReader
from flamingo.data.streams.shard_sizes import SIZES, list_shards, shard_sizes, write_sizes
from flamingo.utils.errors import UserError
from tests.data.streams.shards import pair, write_pairs, write_shard


@pytest.fixture
def made(monkeypatch):
    """The shards whose indexes are made."""
    shards = []
    entries = tar_shards.tar_entries

    def noted(file):
        shards.append(file)
        return entries(file)

    monkeypatch.setattr(tar_shards, "tar_entries", noted)
    return shards


@pytest.mark.parametrize("cached", [False, True])
def test_an_index_is_made_once_and_kept(tmp_path, made, cached):
    write_pairs(tmp_path / "data", 3, 0)
    cache = tmp_path / "cache" if cached else None
    for number, size in enumerate((3, 0)):
        shard = tmp_path / "data" / f"{number:05}.tar"
        first, second = (open_index(shard, "tar", cache) for _ in range(2))
        assert len(first) == len(second) == size
        assert [first[i] for i in range(size)] == [second[i] for i in range(size)]
        assert index_file(shard, cache).exists() and (index_file(shard, cache).parent == shard.parent) != cached
    assert len(made) == 2


def test_an_index_is_made_again_if_the_shard_has_changed(tmp_path, made):
    write_pairs(tmp_path, 3)
    shard = tmp_path / "00000.tar"
    open_index(shard, "tar", None)
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    assert len(open_index(shard, "tar", None)) == 3 and len(made) == 2
    write_pairs(tmp_path, 4)
    assert len(open_index(shard, "tar", None)) == 4 and len(made) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"x" * 300, b"[]".ljust(300)])
def test_a_damaged_index_is_made_again(tmp_path, made, content):
    write_pairs(tmp_path, 3)
    shard = tmp_path / "00000.tar"
    index_file(shard, None).write_bytes(content)
    assert len(open_index(shard, "tar", None)) == 3 and len(made) == 1
    assert len(open_index(shard, "tar", None)) == 3 and len(made) == 1


def test_a_folder_that_cannot_be_written_costs_only_the_index(tmp_path, made):
    write_pairs(tmp_path / "data", 2)
    (tmp_path / "cache").write_text("a file")
    for _ in range(2):
        assert len(open_index(tmp_path / "data" / "00000.tar", "tar", tmp_path / "cache")) == 2
    assert len(made) == 2


def test_sizes_come_from_img2dataset_and_from_kept_indexes(tmp_path, made):
    write_pairs(tmp_path, 3, 2)
    (tmp_path / SIZES).unlink()
    shards = list_shards(str(tmp_path), "tar")
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 9, "successes": 3}))
    with pytest.raises(UserError, match=r"1 of 2 shards.*00001\.tar.*experiments\.index"):
        shard_sizes(shards, "tar", None)
    assert not made
    open_index(shards[1], "tar", None)
    assert shard_sizes(shards, "tar", None).tolist() == [3, 2]


def test_sizes_are_written_and_broken_shards_are_empty(tmp_path, caplog):
    write_pairs(tmp_path, 3, 2)
    (tmp_path / "00002.tar").write_bytes(b"no tar at all")
    shards = list_shards(str(tmp_path), "tar")
    assert list(write_sizes(shards, "tar", None, 1).values()) == [3, 2, 0]
    assert json.loads((tmp_path / SIZES).read_text()) == {"00000.tar": 3, "00001.tar": 2, "00002.tar": 0}
    assert shard_sizes(shards, "tar", None).tolist() == [3, 2, 0]
    assert "00002.tar" in caplog.text
    # Shards that come later are added.
    shutil.copy(tmp_path / "00000.tar", tmp_path / "00003.tar")
    write_sizes(list_shards(f"{tmp_path}/00003.tar", "tar"), "tar", None, 1)
    assert shard_sizes(list_shards(str(tmp_path), "tar"), "tar", None).tolist() == [3, 2, 0, 3]


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(UserError, match="no shard"):
        list_shards(str(tmp_path), "tar")


def test_a_reader_reads_any_sample_and_names_what_is_broken(tmp_path, caplog):
    write_shard(tmp_path / "a.tar", pair("x", 1) + pair("y", 2, caption=" ") + pair("z", 3))
    (tmp_path / "b.tar").write_bytes(b"no tar at all")
    reader = ShardReader(list_shards(str(tmp_path), "tar"), "tar")
    record = reader.sample(0, 2)
    assert (record.id, record.captions) == ("z", ("thing 3",))
    with pytest.raises(UserError, match="caption is empty") as broken:
        reader.sample(0, 1)
    assert not isinstance(broken.value, BrokenShardError)
    for shard, number, reason in ((0, 3, "only 3"), (1, 0, r"b\.tar"), (1, 1, r"b\.tar")):
        with pytest.raises(BrokenShardError, match=reason):
            reader.sample(shard, number)
    assert caplog.text.count("b.tar") == 1
