"""The lists that img2dataset downloads, and the training data that its output completes."""

import json

import pytest

from experiments.list_urls import ListUrlsConfig
from experiments.runs.run_listing import run_listing
from flamingo.data.img2dataset_store import Img2datasetStore
from flamingo.data.streams.source_shards import source_shards
from flamingo.utils.errors import UserError
from tests.data.readers.img2dataset_output import Row, write_output

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CAT, DOG = "https://a.com/cat.jpg", "HTTP://a.com/dog"


def listed(folder, format):
    run_listing(ListUrlsConfig(root=str(folder), format=format, output=str(folder / "list" / "urls.parquet")))
    return pq.read_table(folder / "list" / "urls.parquet").to_pylist()


def obelics(folder):
    images = [[CAT, None], [None, DOG], ["file:///etc/passwd", None], [CAT, None]]
    texts = [[None, "a cat"], ["a dog", None], [None, "no"], [None, "a cat again"]]
    kinds = pa.list_(pa.string())
    pq.write_table(pa.table({"images": pa.array(images, kinds), "texts": pa.array(texts, kinds)}), folder / "0.parquet")


def mmc4(folder):
    infos = [{"image_name": f"{number}.jpg", "raw_url": url} for number, url in enumerate((CAT, DOG, CAT))]
    matrix = [[0.5]] * 3
    page = {"text_list": ["a cat and a dog"], "image_info": infos, "similarity_matrix": matrix}
    (folder / "docs_shard_7_v2.jsonl").write_text(json.dumps(page) + "\n{\n")


def table(folder):
    rows = [("a cat", CAT), ("a dog", DOG), ("a cat again", CAT), ("local", "cat.jpg"), ("", "https://a.com/no")]
    (folder / "cc3m.tsv").write_text("".join(f"{caption}\t{url}\n" for caption, url in rows))


@pytest.mark.parametrize(("format", "write"), [("obelics", obelics), ("mmc4", mmc4)])
def test_each_url_of_pages_is_listed_once(format, write, tmp_path):
    write(tmp_path)
    assert listed(tmp_path, format) == [{"url": CAT}, {"url": DOG}]


def test_pairs_keep_their_captions(tmp_path):
    table(tmp_path)
    assert listed(tmp_path, "caption_table") == [
        {"url": CAT, "caption": "a cat"},
        {"url": DOG, "caption": "a dog"},
        {"url": "https://a.com/no", "caption": None},
    ]


def test_the_output_of_img2dataset_completes_the_pages(tmp_path):
    obelics(tmp_path)
    rows = [Row(row["url"], None, 50 if row["url"] == CAT else None) for row in listed(tmp_path, "obelics")]
    store = Img2datasetStore(write_output(tmp_path / "out", "webdataset", rows))
    reader = source_shards(str(tmp_path / "*.parquet"), "obelics", None).reader(store)
    faults = [part.fault for number in range(4) for part in reader.sample(0, number).parts if not isinstance(part, str)]
    assert faults == ["", "image missing", "file: URL", ""]


def test_without_a_url_nothing_is_written(tmp_path):
    (tmp_path / "a.tsv").write_text("a cat\tcat.jpg\n")
    with pytest.raises(UserError, match="no URL"):
        listed(tmp_path, "caption_table")
    assert not (tmp_path / "list" / "urls.parquet").exists()
