"""Tables of captions and the paths or URLs of their images: CC3M, CC12M, LAION and COYO."""

import pytest

from flamingo.data.document import Image
from flamingo.data.sources import open_source
from flamingo.data.streams.source_shards import source_shards
from flamingo.data.transforms.pictures import open_image
from flamingo.utils.errors import UserError
from tests.data.readers.img2dataset_output import jpeg

PAIRS = [("a cat", "images/0.jpg", 10), ('a "dog"', "images/1.jpg", 30)]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for _, path, value in PAIRS:
        (tmp_path / path).write_bytes(jpeg(value))
    return tmp_path


def tsv(file, lines):
    file.write_text("".join("\t".join(line) + "\n" for line in lines))


def parquet(file, **columns):
    pq = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    pq.write_table(table(columns), file, row_group_size=1)


def write_table(folder, layout):
    """A table of the pairs as the data set has it, with local paths in place of its URLs."""
    captions, paths = [caption for caption, _, _ in PAIRS], [path for _, path, _ in PAIRS]
    if layout == "cc3m":
        tsv(folder / "Train_GCC-training.tsv", zip(captions, paths, strict=True))
    elif layout == "cc12m":
        tsv(folder / "cc12m.tsv", zip(paths, captions, strict=True))
    elif layout == "with a header":
        tsv(folder / "pairs.tsv", [("caption", "url"), *zip(captions, paths, strict=True)])
    elif layout == "laion":
        columns = {"SAMPLE_ID": [5, 6], "URL": paths, "TEXT": captions, "HEIGHT": [6, 6], "WIDTH": [8, 8]}
        parquet(folder / "part-00000.snappy.parquet", **columns, LICENSE=["?", "?"], NSFW=["UNLIKELY", None])
    else:
        columns = {"id": [5, 6], "url": paths, "text": captions, "width": [8, 8], "height": [6, 6]}
        parquet(folder / "part-00000.parquet", **columns, image_phash=["0", "1"], word_count=[2, 2])


LAYOUTS = ("cc3m", "cc12m", "with a header", "laion", "coyo")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_of_local_paths_is_read(layout, images):
    write_table(images, layout)
    (file,) = (file for file in images.iterdir() if file.is_file())
    source = open_source(str(file), format="caption_table")
    shards = source_shards(str(images), "caption_table", None)
    reader = shards.reader(None)
    streamed = [reader.sample(0, number) for number in range(2)]
    for records in (list(source), streamed):
        assert [one.captions[0] for one in records] == [caption for caption, _, _ in PAIRS]
        assert [open_image(one.image.frames[0]).getpixel((3, 3))[0] for one in records] == [10, 30]
    assert [one.id for one in source] == [one.id for one in streamed]
    if file.suffix == ".parquet":
        assert shards.sizes().tolist() == [2]
    else:
        assert [one.captions for one in open_source(str(images))] == [one.captions for one in source]


def test_urls_are_found_in_a_store_and_never_fetched(images):
    cat, dog = "https://a.com/cat.jpg", "https://a.com/dog"
    tsv(images / "a.tsv", [("a cat", cat), ("a dog", dog), ("", cat), ("an owl", "file:///etc/owl.jpg")])

    class Store:
        def find(self, url):
            return Image(str(images / "images" / "0.jpg")) if url == cat else None

    with_store = source_shards(str(images), "caption_table", None).reader(Store())
    assert with_store.sample(0, 0).captions == ("a cat",)
    without = source_shards(str(images), "caption_table", None).reader(None)
    faults = ((with_store, 1, "image missing"), (with_store, 2, "there is no caption"), (with_store, 3, "file: URL"))
    for reader, number, fault in (*faults, (without, 0, "remote image"), (without, 3, "file: URL")):
        with pytest.raises(UserError, match=fault):
            reader.sample(0, number)


@pytest.mark.parametrize(
    ("lines", "number", "fault"),
    [
        ([("a cat", "images/0.jpg"), ("a dog",)], 1, "wrong number of cells"),
        ([("a cat", "images/0.jpg"), ("a dog", "../secret.jpg")], 1, "path outside the data folder"),
        ([("a cat", "images/0.jpg"), ("a dog", "")], 1, "there is no URL"),
    ],
)
def test_a_broken_row_is_one_broken_sample(lines, number, fault, images):
    tsv(images / "a.tsv", lines)
    reader = source_shards(str(images), "caption_table", None).reader(None)
    assert reader.sample(0, 0).captions == ("a cat",)
    with pytest.raises(UserError, match=fault):
        reader.sample(0, number)


@pytest.mark.parametrize("line", [("a cat", "a dog"), ("0.jpg", "1.jpg"), ("a cat", "0.jpg", "3")])
def test_columns_that_are_not_clear_need_a_header(line, images):
    tsv(images / "a.tsv", [line])
    with pytest.raises(UserError, match="first line"):
        open_source(str(images / "a.tsv"), format="caption_table")
