"""Tar shards: samples by key, images by offset, and errors for everything that is broken."""

import io
import json
import logging
import multiprocessing
import os
import pickle
import re
import tarfile

import numpy as np
import pytest
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from flamingo.data.document import Document, Image, Readable, Text
from flamingo.data.readers import Location
from flamingo.data.readers.shards import split_of
from flamingo.data.readers.tar_members import TarMember
from flamingo.data.readers.tar_shards import tar as read_tar
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError


def tar(files):
    return read_tar(Location(tuple(files)))


def picture(value, size=(4, 3), kind="PNG"):
    stream = io.BytesIO()
    PILImage.new("RGB", size, (value, value, value)).save(stream, kind)
    return stream.getvalue()


def shard(file, members, **kwargs):
    """Bytes as they are, text encoded, all else as JSON."""
    with tarfile.open(file, "w", **kwargs) as archive:
        for name, content in members:
            content = content.encode() if isinstance(content, str) else content
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def sample(key, value, captions=None):
    return [(f"{key}.png", picture(value)), (f"{key}.json", {"captions": captions or [f"{key} one", f"{key} two"]})]


def value_of(image):
    return open_image(image.image.frames[0]).getpixel((1, 1))[0]


@pytest.fixture
def two(tmp_path):
    """Five samples, 0 to 4, in two shards."""
    shard(tmp_path / "s-1.tar", sample("d", 3) + sample("e", 4))
    shard(tmp_path / "s-0.tar", sample("a", 0) + sample("b", 1) + sample("c", 2))
    return [tmp_path / "s-1.tar", str(tmp_path / "s-0.tar")]


# -------------------------------------------------------------------------- complete samples


def test_samples_follow_shards_and_members_with_their_images(two):
    source = tar(two)
    assert len(source) == 5 and source.skipped == {}
    assert [image.id for image in source] == ["a", "b", "c", "d", "e"]
    assert [value_of(image) for image in source] == [0, 1, 2, 3, 4]
    assert [image.captions for image in source] == [(f"{key} one", f"{key} two") for key in "abcde"]


def test_the_split_of_a_shard_is_the_word_before_its_number(tmp_path):
    for value, (name, key) in enumerate((("train-0", "a"), ("train-1", "b"), ("dev-0", "a"), ("cc3m", "c"))):
        shard(tmp_path / f"{name}.tar", sample(key, value))
    source = tar(tmp_path.glob("*.tar"))
    assert {(image.split, value_of(image)) for image in source} == {("train", 0), ("train", 1), ("dev", 2), (None, 3)}
    assert split_of("x/train-00017-of-00100.parquet") == "train"
    assert split_of("x/1-train.tar") is None


def test_it_is_a_sequence(two):
    source = tar(two)
    assert source[-1] == source[4] and source[np.int64(1)].id == "b"
    assert [image.id for image in source[1:5:2]] == ["b", "d"]
    assert [image.id for image in reversed(source)] == list("edcba")
    for index in (5, -6):
        with pytest.raises(IndexError):
            source[index]


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path):
    members = [
        ("v1.0/a.b.png", picture(9)),  # no picture by its suffix, "b.png"
        ("v1.0/a.jpg", picture(1, kind="JPEG")),
        ("v1.0/a.txt", " A cat .\n"),
        ("v2.0/a.JPEG", picture(2, kind="JPEG")),
        ("v2.0/a.txt", "A dog ."),
        ("w.webp", picture(3, kind="WEBP")),
        ("w.cls", "5"),
        ("w.json", {"caption": "A bird .", "url": "x"}),
    ]
    source = tar([shard(tmp_path / "s.tar", members)])
    assert [(image.id, image.captions) for image in source] == [
        ("v1.0/a", ("A cat .",)),
        ("v2.0/a", ("A dog .",)),
        ("w", ("A bird .",)),
    ]
    assert [value_of(image) for image in source] == [1, 2, 3]
    assert source.skipped == {}


def test_text_members_hold_a_caption_a_line_json_captions_one(tmp_path):
    """CLIP_benchmark joins an image's captions by line breaks, and ends the file without one."""
    five = [f"caption {i} ." for i in range(5)]
    members = [("a.jpg", picture(1, kind="JPEG")), ("a.txt", "\n".join(five))]
    members += [("b.jpg", picture(2, kind="JPEG")), ("b.txt", "one .\r\n\r\n two .\u2028 \r\n")]
    members += [("c.jpg", picture(3, kind="JPEG")), ("c.json", {"caption": " A dog\r\n\n runs . \n"})]
    source = tar([shard(tmp_path / "s.tar", members)])
    assert [image.captions for image in source] == [tuple(five), ("one .", "two ."), ("A dog runs .",)]


def test_the_json_split_wins_over_the_file_name(tmp_path):
    members = sample("a", 1)
    for key, split in (("b", "val"), ("c", None), ("d", ""), ("e", 3)):
        members += [(f"{key}.png", picture(1)), (f"{key}.json", {"caption": "x", "split": split})]
    source = tar([shard(tmp_path / "train-0.tar", members)])
    splits = {image.id: image.split for image in source}
    assert splits == {"a": "train", "b": "val", "c": "train", "d": "train"}
    assert "split" in source.skipped["e"]
    shard(tmp_path / "train-1.tar", [("b.png", picture(2)), ("b.txt", "of the other split")])
    both = tar(tmp_path.glob("train-*.tar"))
    assert {(image.id, image.split) for image in both} >= {("b", "val"), ("b", "train")}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_that_were_put_behind_each_other_are_all_read(format, tmp_path):
    """``cat a.tar b.tar``: the blocks of zeros that end an archive, up to 10,240 bytes of them, lie in the middle."""
    parts = [shard(tmp_path / f"{key}.tar", sample(key, i), format=format) for i, key in enumerate("abc")]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = tar([joined])
    assert [image.id for image in source] == ["a", "b", "c"] and source.skipped == {}
    assert [value_of(image) for image in source] == [0, 1, 2]
    whole = joined.read_bytes()
    joined.write_bytes(whole[: len(whole) * 2 // 3 + 600])  # cut off within the last archive
    cut = tar([joined])
    assert [image.id for image in cut] == ["a", "b"] and str(joined) in cut.skipped
    joined.write_bytes(parts[0].read_bytes() + b"what is no archive" * 100)
    behind = tar([joined])
    assert [image.id for image in behind] == ["a"] and str(joined) in behind.skipped


def test_members_of_a_sample_may_be_apart_and_json_wins(tmp_path):
    pictures = [("a.png", picture(1)), ("b.png", picture(2)), ("c.png", picture(3))]
    texts = [("c.txt", "no"), ("b.txt", "from text"), ("a.json", {"captions": ["from JSON"]})]
    rest = [("b.json", {"caption": None, "key": "b"}), ("a.txt", "no"), ("c.json", {"caption": "also JSON"})]
    source = tar([shard(tmp_path / "s.tar", pictures + texts + rest)])
    assert [(image.id, image.captions) for image in source] == [
        ("a", ("from JSON",)),
        ("b", ("from text",)),
        ("c", ("also JSON",)),
    ]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_may_be_long_and_of_any_script(format, tmp_path):
    key = "猫/" * 20 + "k" * 40  # 60 + 20 + 40 bytes: more than a plain header holds, less than USTAR's prefix adds
    source = tar([shard(tmp_path / "s.tar", sample(key, 8, ["猫"]), format=format)])
    assert (source[0].id, source[0].captions, value_of(source[0])) == (key, ("猫",), 8)


def test_a_tar_image_reads_its_bytes_and_has_a_unique_name(two):
    source = tar(two)
    frames = [image.image.frames[0] for image in source]
    assert all(isinstance(frame, Readable) for frame in frames)
    assert frames[1].read_bytes() == picture(1)
    assert str(frames[1]).endswith("s-0.tar:b.png")
    assert len({str(frame) for frame in frames}) == 5
    Document([Image(frames[0]), Text("a")])


def collated(images):
    return [(image.id, value_of(image)) for image in images]


def test_forked_workers_read_without_disturbing_each_other(tmp_path):
    files = [
        shard(tmp_path / f"{n}.tar", [m for i in range(40) for m in sample(f"{n}-{i}", 40 * n + i)]) for n in (0, 1)
    ]
    source = tar(files)
    value_of(source[7])  # the file was open once before the workers start
    context = multiprocessing.get_context("fork")
    loader = DataLoader(source, 4, shuffle=True, num_workers=2, collate_fn=collated, multiprocessing_context=context)
    read = [pair for _ in range(2) for batch in loader for pair in batch]
    assert len(read) == 160
    assert all(value == 40 * int(id.split("-")[0]) + int(id.split("-")[1]) for id, value in read)


def test_it_can_be_sent_to_another_process(two):
    assert [value_of(image) for image in pickle.loads(pickle.dumps(tar(two)))] == [0, 1, 2, 3, 4]  # noqa: S301


def test_a_shard_that_shrank_is_an_error_with_the_member(two):
    source = tar(two)
    with open(two[1], "r+b") as stream:  # noqa: PTH123
        stream.truncate(600)
    with pytest.raises(UserError, match=r"s-0\.tar:b\.png"):
        value_of(source[1])
    assert value_of(source[3]) == 3


# ------------------------------------------------------------------------ what is broken


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("x.json", {"captions": ["a"]})], "no picture: among x.json"),
        ([("x.gif", b"GIF"), ("x.txt", "a")], "no picture: among x.gif, x.txt"),
        ([("x.png", picture(1)), ("x.jpg", picture(2)), ("x.txt", "a")], "several pictures: among x.png, x.jpg, x.txt"),
        ([("x.png", picture(1))], "there is no caption"),
        ([("x.png", picture(1)), ("x.txt", " \n")], "there is no caption"),
        ([("x.png", picture(1)), ("x.json", {"caption": "\t"})], "a caption is empty: "),
        (
            [("x.png", picture(1)), ("x.txt", b"\xff\xfe")],
            "its text is not UTF-8: .* byte 0xff in position 0",
        ),
        ([("x.png", picture(1)), ("x.json", "{captions: 5")], "Expecting property name"),
        ([("x.png", picture(1)), ("x.json", "[" * 100_000)], "recursion"),
        ([("x.png", picture(1)), ("x.json", ["a"])], "its JSON is a list, not an object"),
        ([("x.png", picture(1)), ("x.json", {"captions": []})], "there is no caption"),
        ([("x.png", picture(1)), ("x.json", {"captions": ["a", None]})], r"captions must be texts: got \['a', None\]"),
        ([("x.png", picture(1)), ("x.json", {"captions": ["a"], "caption": "a"})], "has both captions and caption"),
        ([("x.png", picture(1)), ("x.json", '{"caption": "\\ud800"}')], "surrogates not allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_sample_is_left_out_counted_and_logged(members, reason, tmp_path, caplog):
    file = shard(tmp_path / "s.tar", sample("a", 1) + members + sample("b", 2))
    with caplog.at_level(logging.WARNING):
        source = tar([file])
    assert [image.id for image in source] == ["a", "b"] and len(source) == 2
    assert [value_of(image) for image in source] == [1, 2]
    assert list(source.skipped) == ["x"]
    assert re.search(reason, source.skipped["x"])
    assert f"{file}: left out 1: " in caplog.text and "(1, the first x)" in caplog.text


def test_what_is_no_file_holds_no_sample(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        folder = tarfile.TarInfo("photographs.d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in [("x.txt", b"a link"), ("a.png", picture(1)), ("a.txt", b"a picture")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    source = tar([tmp_path / "s.tar"])
    assert [image.id for image in source] == ["a"]
    assert source.skipped == {"x": "no picture: among x.txt"}


def test_a_truncated_shard_keeps_its_whole_samples(tmp_path):
    whole = shard(tmp_path / "whole.tar", sample("a", 1) + sample("b", 2))
    content, cut = whole.read_bytes(), tmp_path / "cut.tar"
    with tarfile.open(whole) as archive:
        ends = [member.offset_data + member.size for member in archive]
        starts = [member.offset for member in archive]
        blocks = archive.offset
    for size in (*range(ends[1], ends[3], 100), ends[3] - 1, starts[2], starts[2] + 512, starts[3], ends[3], blocks):
        cut.write_bytes(content[:size])
        source = tar([cut])
        assert [image.id for image in source] == (["a", "b"] if size >= ends[3] else ["a"]), size
        assert source.skipped[str(cut)].startswith("it is cut off or damaged after "), size
    cut.write_bytes(content[: blocks + 512])  # one block of zeros is an end
    assert tar([cut]).skipped == {}
    for size in (0, 100, 512, ends[0] - 1):
        cut.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cut\.tar"):
            tar([cut])


def test_a_damaged_header_loses_the_rest_and_says_so(tmp_path):
    file = shard(tmp_path / "s.tar", sample("a", 1) + sample("b", 2))
    with tarfile.open(file) as archive:
        header = archive.getmember("b.png").offset
    content = bytearray(file.read_bytes())
    content[header + 20] ^= 255
    lying = tarfile.TarInfo("x")
    lying.type, lying.size = tarfile.GNUTYPE_LONGNAME, 2**70
    for damaged in (content, content[:header] + lying.tobuf(tarfile.GNU_FORMAT) + content[header:]):
        file.write_bytes(damaged)
        source = tar([file])
        assert [image.id for image in source] == ["a"]
        assert source.skipped == {str(file): "it is cut off or damaged after a.json"}


def test_unreadable_shards_are_errors_with_their_names(two, tmp_path):
    for mode, name in [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")]:
        with tarfile.open(tmp_path / "s-2.tar", mode) as archive:
            archive.add(two[0], "a.png")
        with pytest.raises(UserError, match=rf"s-2\.tar.*{name}"):
            tar([*two, tmp_path / "s-2.tar"])
    (tmp_path / "s-2.tar").write_bytes(b"no tar at all " * 100)
    with pytest.raises(UserError, match=r"s-2\.tar"):
        tar([*two, tmp_path / "s-2.tar"])
    with pytest.raises(UserError, match=r"s-3\.tar"):
        tar([*two, tmp_path / "s-3.tar"])
    with pytest.raises(UserError, match=r"s-4\.tar"):
        tar([shard(tmp_path / "s-4.tar", [("a.png", picture(1)), ("b.txt", "b")])])
    with pytest.raises(UserError, match="no file"):
        tar([])


def test_a_shard_that_is_no_regular_file_is_an_error_at_once(two, tmp_path):
    source = tar(two)
    os.mkfifo(tmp_path / "s-2.tar")
    with pytest.raises(UserError, match=r"s-2\.tar"):
        tar([*two, tmp_path / "s-2.tar"])
    (tmp_path / "s-0.tar").unlink()  # replaced while a run was stopped
    os.mkfifo(tmp_path / "s-0.tar")
    with pytest.raises(UserError, match=r"image .*s-0\.tar:a\.png"):
        value_of(source[0])


def test_a_name_that_is_no_utf8_is_left_out_and_named(tmp_path):
    """Such a name becomes half characters in Python, which no file of results could hold."""
    file = tmp_path / "s.tar"
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, content in [("é.png", picture(1)), ("é.txt", b"x"), ("b.png", picture(2)), ("b.txt", b"y")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    source = tar([file])
    assert [image.id for image in source] == ["b"]
    assert list(source.skipped) == ["\\udce9"]


def test_a_repeated_id_is_an_error_with_both_places(two, tmp_path):
    again = shard(tmp_path / "s-2.tar", sample("f", 5) + sample("b", 6))
    with pytest.raises(UserError, match=r"'b'.*s-0\.tar.*s-2\.tar"):
        tar([*two, again])
    with pytest.raises(UserError, match=r"'a'.*s-0\.tar.*s-0\.tar"):
        tar([two[1], two[1]])
    with pytest.raises(UserError, match=r"s-2\.tar.*b\.png.*b\.PNG"):
        tar([shard(again, [*sample("b", 6), ("b.PNG", picture(7))])])


def test_the_index_stays_small(tmp_path):
    """Some hundred bytes a sample, however many, in two objects."""
    members = [
        m for i in range(300) for m in ((f"{i:09}.png", picture(1)), (f"{i:09}.txt", "a caption of ten words or so"))
    ]
    source = tar([shard(tmp_path / "s.tar", members)])
    assert len(pickle.dumps(source)) < 300 * 120


def test_members_are_equal_where_they_are_the_same(two):
    assert tar(two)[0] == tar(two)[0]
    assert TarMember("s.tar", "a.png", 0, 5) != TarMember("s.tar", "a.png", 512, 5)
