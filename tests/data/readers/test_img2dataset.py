"""Output folders of img2dataset, in its three formats: as one data set, and as streamed shards."""

import pytest

from flamingo.data.sources import open_source
from flamingo.data.streams.source_shards import source_shards
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from tests.data.readers.img2dataset_output import write_output

pytest.importorskip("pyarrow")

FORMATS = {"webdataset": "tar", "files": "img2dataset_files", "parquet": "parquet"}
#: The captions and the grey of the pictures, without the failed download and the sample without a caption.
EXPECTED = [("A cat.", 10), ("a dog", 30), ("a bird", 40)]


def grey(record):
    return open_image(record.image.frames[0]).getpixel((3, 3))[0]


@pytest.mark.parametrize("output_format", FORMATS)
def test_an_output_folder_is_one_data_set(output_format, tmp_path):
    source = open_source(str(write_output(tmp_path / "out", output_format)))
    assert [(" ".join(one.captions), grey(one)) for one in source] == EXPECTED
    assert "there is no caption" in [reason.partition(": ")[0] for reason in source.skipped.values()]
    # Of the formats only Parquet has rows of failed downloads.
    assert len(source.skipped) == (2 if output_format == "parquet" else 1)


@pytest.mark.parametrize("output_format", FORMATS)
def test_an_unfinished_shard_does_not_hide_the_others(output_format, tmp_path):
    folder = write_output(tmp_path / "out", output_format)
    (folder / "00001_stats.json").unlink()
    assert [" ".join(one.captions) for one in open_source(str(folder))] == [caption for caption, _ in EXPECTED]


@pytest.mark.parametrize("output_format", FORMATS)
def test_streamed_shards_have_the_samples_that_the_stats_count(output_format, tmp_path):
    folder = write_output(tmp_path / "out", output_format)
    shards = source_shards(str(folder), FORMATS[output_format], None)
    assert shards.sizes().tolist() == [2, 2]
    assert not list(folder.rglob("*.index"))
    reader = shards.reader(None)
    found = []
    for shard in range(2):
        for sample in range(2):
            try:
                record = reader.sample(shard, sample)
                found.append((record.id, " ".join(record.captions), grey(record)))
            except UserError as error:
                assert str(error) == "there is no caption" and (shard, sample) == (0, 1)
    keys = ["000000000", "000010000", "000010001"]
    assert found == [(key, *expected) for key, expected in zip(keys, EXPECTED, strict=True)]
    assert [len(reader._opened(shard)) for shard in range(2)] == [2, 2]


def test_pictures_without_stats_are_counted_by_the_index(tmp_path):
    folder = write_output(tmp_path / "out", "parquet")
    for file in folder.glob("*_stats.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"2 of 2 shards"):
        source_shards(str(folder), "parquet", None).sizes()
    reader = source_shards(str(folder), "parquet", None).reader(None)
    assert reader.sample(0, 0).captions == ("A cat.",)
    assert source_shards(str(folder), "parquet", None).reader(None)._opened(1)[0] == [0, 0, 0]
