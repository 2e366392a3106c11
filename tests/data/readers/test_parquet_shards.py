"""Parquet shards: captions from the index, images from their row groups."""

import io
import multiprocessing
import sys

import pytest
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from flamingo.data.readers import Location
from flamingo.data.readers.parquet_shards import parquet as read_parquet
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(files):
    return read_parquet(Location(tuple(files)))


def picture(value):
    stream = io.BytesIO()
    PILImage.new("RGB", (4, 3), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def value_of(image):
    return open_image(image.image.frames[0]).getpixel((1, 1))[0]


def shard(file, images, kind=STRUCT, rows=2, **columns):
    """Row groups of two rows; pictures of these values, as ``datasets`` embeds them or as plain bytes."""
    content = [None if value is None else picture(value) for value in images]
    cells = [{"bytes": cell, "path": "same.png"} for cell in content] if kind == STRUCT else content
    pq.write_table(pa.table({"image": pa.array(cells, kind), **columns}), file, row_group_size=rows)
    return file


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize("name", ["captions", "caption", "text"])
def test_images_keep_their_captions_across_row_groups_and_files(kind, name, tmp_path):
    texts = [[f"{i} one", f" {i} two"] if name == "captions" else f"{i} one" for i in range(8)]
    shard(tmp_path / "b.parquet", [5, 6, 7], kind, **{name: texts[5:]})
    shard(tmp_path / "a.parquet", [0, 1, 2, 3, 4], kind, **{name: texts[:5]})
    source = parquet(sorted(tmp_path.glob("*.parquet"), reverse=True))
    assert [value_of(image) for image in source] == list(range(8))
    assert [value_of(image) for image in reversed(source)] == list(range(8))[::-1]
    assert [image.captions[0] for image in source] == [f"{i} one" for i in range(8)]
    assert source[6].captions == (("6 one", "6 two") if name == "captions" else ("6 one",))
    assert [image.id for image in source][3:6] == ["a/3", "a/4", "b/0"]
    assert source[0].split is None and source.skipped == {}


def test_lists_may_stand_under_any_name_and_ids_in_a_column(tmp_path):
    file = shard(tmp_path / "a.parquet", [0, 1], caption=[["x", "y"], ["z"]], id=[11, 12], size=[3, 4])
    assert [(image.id, image.captions) for image in parquet([file])] == [("11", ("x", "y")), ("12", ("z",))]


def test_a_column_of_splits_wins_over_the_name_of_the_file(tmp_path):
    """As in nlphuji/flickr30k, where one file named for the test split holds all three."""
    splits = ["train", "val", None, "", "test"]
    shard(tmp_path / "test-00000-of-00001.parquet", range(5), caption=list("abcde"), split=splits)
    source = parquet(tmp_path.glob("*.parquet"))
    assert [image.split for image in source] == ["train", "val", "test", "test", "test"]
    numbers = shard(tmp_path / "b.parquet", [0], caption=["a"], split=[1])
    with pytest.raises(UserError, match=r"b\.parquet.*split"):
        parquet([numbers])


POLARS = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])


@pytest.mark.parametrize(
    ("image", "caption"),
    [
        (POLARS, pa.large_list(pa.large_string())),
        (pa.struct([("path", pa.string_view()), ("bytes", pa.binary_view())]), pa.list_(pa.string_view())),
        (pa.binary_view(), pa.string_view()),
        (pa.large_binary(), pa.large_string()),
        (pa.dictionary(pa.int32(), pa.binary()), pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_files_of_polars_are_read_with_any_of_arrows_types(image, caption, tmp_path):
    """polars 1.x writes ``large_*`` types, or views, into the schema that a file carries."""
    content = [picture(value) for value in (3, 4)]
    cells = [{"bytes": cell, "path": None} for cell in content] if pa.types.is_struct(image) else content
    texts = ["x", "y"] if not str(caption).startswith(("list", "large_list")) else [["x", "x2"], ["y"]]
    columns = {"image": pa.array(cells, image), "caption": pa.array(texts, caption)}
    columns["split"] = pa.array(["val", "val"]).dictionary_encode()
    columns["id"] = pa.array(["k0", "k1"], pa.large_string())
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    source = parquet([tmp_path / "a.parquet"])
    assert [(one.id, one.captions[0], one.split) for one in source] == [("k0", "x", "val"), ("k1", "y", "val")]
    assert [value_of(one) for one in source] == [3, 4]


def test_rows_without_captions_or_bytes_are_left_out_or_named(tmp_path):
    file = shard(tmp_path / "a.parquet", [0, 1, None, 3, 4], caption=["x", None, "y", " ", "z"])
    source = parquet([file])
    assert [image.id for image in source] == ["a/0", "a/2", "a/4"]
    assert source.skipped == {"a/1": "there is no caption", "a/3": "a caption is empty: ' '"}
    assert value_of(source[0]) == 0 and value_of(source[2]) == 4
    with pytest.raises(UserError, match=r"a\.parquet.*row 0.*1"):
        value_of(source[1])
    assert len({str(image.image.frames[0]) for image in source}) == 3


def collated(images):
    return [(image.captions[0], value_of(image)) for image in images]


def test_forked_workers_read_row_groups_of_their_own(tmp_path):
    source = parquet([shard(tmp_path / "a.parquet", range(60), rows=7, text=[str(i) for i in range(60)])])
    value_of(source[0])  # pyarrow was at work before the workers start
    context = multiprocessing.get_context("fork")
    loader = DataLoader(source, 5, shuffle=True, num_workers=2, collate_fn=collated, multiprocessing_context=context)
    read = [pair for batch in loader for pair in batch]
    assert sorted(value for _, value in read) == list(range(60))
    assert all(text == str(value) for text, value in read)


def test_shards_that_cannot_be_read_are_errors_that_name_them(tmp_path):
    file = tmp_path / "a.parquet"
    whole = shard(file, [0, 1], caption=["x", "y"]).read_bytes()
    for content in (b"", b"no parquet", whole[: len(whole) // 2], whole[:-5] + b"xxxxx"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet"):
            parquet([file])
    with pytest.raises(UserError, match=r"gone\.parquet"):
        parquet([tmp_path / "gone.parquet"])
    for columns, message in [
        ({"label": [1, 2]}, "image, label$"),
        (
            {"text": ["x", "y"], "caption": ["x", "y"]},
            "image, text, caption$",
        ),
    ]:
        with pytest.raises(UserError, match=rf"a\.parquet.*{message}"):
            parquet([shard(file, [0, 1], **columns)])
    for image, found in [(["a.png"], "string$"), ([{"path": "a.png"}], "struct<path: string>$")]:
        pq.write_table(pa.table({"image": image, "text": ["x"]}), file)
        with pytest.raises(UserError, match=rf"column image.*{found}"):
            parquet([file])
    pq.write_table(pa.table({"text": ["x"]}), file)
    with pytest.raises(UserError, match=r"image.*no such column"):
        parquet([file])


def test_an_id_that_is_there_twice_names_both_files(tmp_path):
    files = [shard(tmp_path / f"{name}.parquet", [0], text=["x"], id=["k"]) for name in "ab"]
    with pytest.raises(UserError, match=r"'k'.*a\.parquet.*b\.parquet"):
        parquet(files)


def test_without_pyarrow_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    file = shard(tmp_path / "a.parquet", [0], text=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"flamingo\[parquet\]"):
        parquet([file])
