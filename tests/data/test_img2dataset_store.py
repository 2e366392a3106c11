"""An output folder of img2dataset is a store of pictures by their URLs, in each of its formats."""

import shutil

import pytest

from flamingo.data import img2dataset_store
from flamingo.data.img2dataset_store import Img2datasetStore, images_at
from flamingo.data.transforms.pictures import open_image
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from tests.data.readers.img2dataset_output import ROWS, write_output

pytest.importorskip("pyarrow")

FORMATS = ("webdataset", "files", "parquet")


@pytest.mark.parametrize("output_format", FORMATS)
def test_each_url_gives_its_own_picture(output_format, tmp_path):
    folder = write_output(tmp_path / "out", output_format)
    store = Img2datasetStore(folder)
    assert isinstance(store, UrlStore) and len(store) == 4
    for row in ROWS:
        image = store.find(row.url)
        assert (image is None) == (row.value is None)
        if image is not None:
            assert open_image(image.frames[0]).getpixel((3, 3))[0] == row.value
    assert store.find("https://a.com/9.jpg") is None and store.find("") is None


def test_urls_are_indexed_once_until_the_tables_change(tmp_path, monkeypatch):
    folder, cache = write_output(tmp_path / "out", "files"), tmp_path / "cache"
    indexed = []
    write_index = img2dataset_store._write_index
    monkeypatch.setattr(img2dataset_store, "_write_index", lambda *args: indexed.append(args) or write_index(*args))
    for _ in range(2):
        assert Img2datasetStore(folder, cache).find(ROWS[0].url) is not None
    assert len(indexed) == 1 and not list(folder.rglob("urls.*"))
    (folder / "00001.parquet").unlink()
    assert Img2datasetStore(folder, cache).find(ROWS[3].url) is None and len(indexed) == 2


def test_a_lost_or_foreign_shard_lacks_its_pictures(tmp_path, caplog):
    folder = write_output(tmp_path / "out", "webdataset")
    store = Img2datasetStore(folder)
    shutil.copy(folder / "00001.tar", folder / "00000.tar")
    assert store.find(ROWS[0].url) is None and store.find(ROWS[3].url) is not None
    (folder / "00001.tar").write_bytes(b"no tar at all")
    again = Img2datasetStore(folder)
    assert again.find(ROWS[3].url) is None and again.find(ROWS[4].url) is None
    assert caplog.text.count("00001.tar") == 1


def test_a_folder_of_img2dataset_is_a_store(tmp_path):
    folder = write_output(tmp_path / "out", "files")
    assert isinstance(images_at(str(folder)), Img2datasetStore)
    (tmp_path / "images").mkdir()
    assert images_at(str(tmp_path / "images")) == tmp_path / "images" and images_at(None) is None
    with pytest.raises(UserError, match="no tables"):
        Img2datasetStore(tmp_path / "images")
