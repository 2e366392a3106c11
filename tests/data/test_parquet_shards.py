"""Parquet shards: captions from the index, pictures from their row groups."""

import io
import multiprocessing
import sys

import pytest
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from flamingo.data.parquet_shards import parquet
from flamingo.data.pictures import open_image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


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
def test_pictures_and_captions_belong_together_across_row_groups_and_files(kind, name, tmp_path):
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


def test_rows_without_a_caption_are_left_out_and_pictures_without_bytes_are_named_when_opened(tmp_path):
    file = shard(tmp_path / "a.parquet", [0, 1, None, 3, 4], caption=["x", None, "y", " ", "z"])
    source = parquet([file])
    assert [image.id for image in source] == ["a/0", "a/2", "a/4"]
    assert source.skipped == {"a/1": "captions must be texts, got None", "a/3": "a caption is empty: ' '"}
    assert value_of(source[0]) == 0 and value_of(source[2]) == 4
    with pytest.raises(
        ValueError, match=r"image .*a\.parquet, row 0 of row group 1 cannot be read: there are no bytes"
    ):
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
        with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
            parquet([file])
    with pytest.raises(ValueError, match=r"gone\.parquet cannot be read"):
        parquet([tmp_path / "gone.parquet"])
    for columns, message in [
        ({"label": [1, 2]}, "one column must be captions, caption or text; there are image, label"),
        (
            {"text": ["x", "y"], "caption": ["x", "y"]},
            "one column must be captions, .*; there are image, text, caption",
        ),
    ]:
        with pytest.raises(ValueError, match=rf"a\.parquet cannot be read: {message}"):
            parquet([shard(file, [0, 1], **columns)])
    for image, found in [(["a.png"], "it is: string"), ([{"path": "a.png"}], "it is: struct<path: string>")]:
        pq.write_table(pa.table({"image": image, "text": ["x"]}), file)
        with pytest.raises(ValueError, match=rf"the column image must be bytes, or a struct with bytes; {found}"):
            parquet([file])
    pq.write_table(pa.table({"text": ["x"]}), file)
    with pytest.raises(ValueError, match="it is: no such column"):
        parquet([file])


def test_an_id_that_is_there_twice_names_both_files(tmp_path):
    files = [shard(tmp_path / f"{name}.parquet", [0], text=["x"], id=["k"]) for name in "ab"]
    with pytest.raises(ValueError, match=r"the id 'k' is in .*a\.parquet and again in .*b\.parquet"):
        parquet(files)


def test_without_pyarrow_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    file = shard(tmp_path / "a.parquet", [0], text=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="parquet shards need the package pyarrow: pip install pyarrow"):
        parquet([file])
