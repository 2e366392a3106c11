"""OBELICS's Parquet files: URLs with a store of them, and embedded images."""

import json

import pytest

from flamingo.data.document import Image
from flamingo.data.streams import SHARD_FORMATS
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name
from tests.data.readers.page_files import contents, picture, read_pages

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

BREAK = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
CAT, DOG = "https://example.com/cat.jpg", "https://example.com/dog.png"
TEXTS = [[None, "A cat.\n\nIt sleeps.", None], [f"one\n\n{BREAK}\n\ntwo", None], [None, "A dog."]]
URLS = [[CAT, None, DOG], [None, CAT], [DOG, None]]
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def written(file, images, texts, kind, rows=2):
    """A table with the columns of the dataset card. Row groups have two rows."""
    metadata = [json.dumps([None if url is None else {"src": url} for url in row]) for row in URLS]
    columns = {
        "images": pa.array(images, kind),
        "metadata": metadata[: len(texts)],
        "general_metadata": [json.dumps({"url": "https://example.com"})] * len(texts),
        "texts": pa.array(texts, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), file, row_group_size=rows)
    return file


class Store:
    """A store of URLs with the cat alone."""

    def __init__(self, path):
        self.path = path

    def find(self, url):
        return Image(str(self.path)) if url == CAT else None


def expected(cat, dog):
    """The pages, with the pictures or faults of the two images."""
    return [
        ("train-0/0", None, [cat, "A cat.\n\nIt sleeps.", dog], [], None),
        ("train-0/1", None, ["one", None, "two", cat], [], None),
        ("train-0/2", None, [dog, "A dog."], [], None),
    ]


def test_urls_find_their_pictures_in_a_store(tmp_path):
    (tmp_path / "cat").write_bytes(picture(1))
    file = written(tmp_path / "train-0.parquet", URLS, TEXTS, pa.list_(pa.string()))
    pages = read_pages("obelics", file, Store(tmp_path / "cat"))
    assert [contents(page) for page in pages] == expected((CAT, picture(1)), (DOG, "image missing"))


def test_without_a_store_all_pictures_are_missing(tmp_path):
    file = written(tmp_path / "train-0.parquet", URLS, TEXTS, pa.list_(pa.string()))
    missing = (CAT, "image missing"), (DOG, "image missing")
    assert [contents(page) for page in read_pages("obelics", file)] == expected(*missing)
    with pytest.raises(UserError, match=r"^no store of URLs: "):
        read_pages("obelics", file, tmp_path)


@pytest.mark.parametrize("empty", [None, {"bytes": None, "path": None}], ids=["null", "struct of nulls"])
def test_embedded_images_are_structs_as_datasets_writes_them(empty, tmp_path):
    struct = {CAT: {"bytes": picture(1), "path": "cat.jpg"}, DOG: {"bytes": picture(2, "PNG"), "path": "dog.png"}}
    images = [[empty if url is None else struct[url] for url in row] for row in URLS]
    file = written(tmp_path / "train-0.parquet", images, TEXTS, IMAGES)
    pages = read_pages("obelics", file)
    assert [contents(page) for page in pages] == expected(("cat.jpg", picture(1)), ("dog.png", picture(2, "PNG")))
    assert pages[1].parts[-1].num_bytes == len(picture(1))


def test_embedded_images_may_be_plain_bytes(tmp_path):
    images = [[picture(1), None, None], [None, picture(2)]]
    file = written(tmp_path / "a.parquet", images, [[None, "x", None], ["y", None]], pa.list_(pa.binary()))
    names = [f"{file}, page 0, image 0", f"{file}, page 1, image 1"]
    parts = [contents(page)[2] for page in read_pages("obelics", file)]
    assert parts == [[(names[0], picture(1)), "x"], ["y", (names[1], picture(2))]]


def test_the_footer_tells_the_number_of_pages(tmp_path):
    file = written(tmp_path / "train-0.parquet", URLS, TEXTS, pa.list_(pa.string()))
    assert import_name(SHARD_FORMATS["obelics"].count)(file) == 3


@pytest.mark.parametrize(
    ("kind", "images", "texts"),
    [
        ("lists of other lengths", [[CAT]], [[None, "x"]]),
        ("an image and a text in one place", [[CAT]], [["x"]]),
        ("wrong column images", [None], [["x"]]),
    ],
)
def test_a_broken_row_costs_its_page_alone(kind, images, texts, tmp_path):
    file = written(tmp_path / "a.parquet", images, texts, pa.list_(pa.string()))
    with pytest.raises(UserError, match=f"^{kind}: "):
        read_pages("obelics", file)


def test_a_file_without_the_columns_is_an_error(tmp_path):
    pq.write_table(pa.table({"image": [b""], "texts": [["a"]]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column images.* image, texts"):
        read_pages("obelics", tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"b\.parquet cannot be read"):
        read_pages("obelics", tmp_path / "b.parquet")
