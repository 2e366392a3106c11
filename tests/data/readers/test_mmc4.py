"""MMC4 as it is distributed, with images in folders, and OpenFlamingo's tar files of it."""

import json

import numpy as np
import pytest

from flamingo.data.document import Image
from flamingo.data.readers import line_places
from flamingo.data.readers.line_places import LONGEST_LINE
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import (
    contents,
    converted,
    gpt_sequence,
    mmc4_documents,
    picture,
    read_pages,
    write_mmc4,
    write_openflamingo,
    zipped,
)

FIRST = ["A cat.", "", "A dög."]
SIMILARITY = [[0.1, 0.2, 0.35], [0.3, -0.1, 0.25]]


@pytest.fixture
def shard(tmp_path):
    """A shard of two pages. Two of its three images lie in the folder of its number."""
    file = write_mmc4(tmp_path, mmc4_documents())
    (tmp_path / "7").mkdir()
    for value, name in enumerate(("aa.jpg", "cc.jpg")):
        (tmp_path / "7" / name).write_bytes(picture(50 * value))
    return file


PAGES = [
    (
        "docs_shard_7_v2/1",
        None,
        FIRST,
        [("aa.jpg", picture(0)), ("bb.jpg", "image missing")],
        SIMILARITY,
    ),
    ("docs_shard_7_v2/2", None, [" One. "], [("cc.jpg", picture(50))], [[0.2799999]]),
]


@pytest.mark.parametrize("make", [lambda file: file, zipped], ids=["jsonl", "zip"])
def test_pages_have_their_texts_images_and_similarities(make, shard):
    pages = read_pages("mmc4", make(shard))
    assert [contents(page) for page in pages] == PAGES
    assert pages[0].similarity.dtype == np.float64
    assert [image.num_bytes for image in pages[0].unplaced] == [len(picture(0)), None]


@pytest.mark.parametrize("place", ["elsewhere/7", "elsewhere/docs_shard_7_v2_images", "elsewhere"])
def test_images_lie_in_folders_of_the_shard_or_in_one_folder(place, shard, tmp_path):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "bb.jpg").write_bytes(picture(9))
    pages = read_pages("mmc4", shard, tmp_path / "elsewhere")
    assert contents(pages[0])[3] == [("aa.jpg", "image missing"), ("bb.jpg", picture(9))]


class Store:
    """A store of URLs with the image aa.jpg alone."""

    def __init__(self, path):
        self.path = path

    def find(self, url):
        return Image(str(self.path)) if url == "https://example.com/aa.jpg" else None


def test_images_may_come_from_a_store_of_urls(shard, tmp_path):
    page = read_pages("mmc4", shard, Store(tmp_path / "7" / "aa.jpg"))[0]
    assert contents(page)[3] == [("aa.jpg", picture(0)), ("bb.jpg", "image missing")]


def test_a_page_without_images_has_no_similarities(tmp_path):
    document = {"text_list": ["Only a text."], "image_info": [], "similarity_matrix": []}
    page = read_pages("mmc4", write_mmc4(tmp_path, [document]))[0]
    assert contents(page) == ("docs_shard_7_v2/1", None, ["Only a text."], [], None)


def changed(document, **fields):
    return json.dumps(document | fields).encode()


def broken_lines():
    whole = mmc4_documents()[0]
    return {
        "the page is not JSON": b"{",
        "the page is not a JSON object": b"[]",
        "wrong field text_list": changed(whole, text_list="no list"),
        "half a character": changed(whole, text_list=["a", "b", "\ud83d"]),
        "wrong field image_info": changed(whole, image_info=[None]),
        "wrong field image_name": changed(whole, image_info=[{"raw_url": "x"}, {"raw_url": "y"}]),
        "wrong field similarity_matrix": changed(whole, similarity_matrix=[[0.1, 0.2], [0.3, 0.4]]),
        "line too long": b" " * LONGEST_LINE + b"{}",
        "the page is not JSON, since it is nested": b"[" * 100_000,
    }


@pytest.mark.parametrize("kind", broken_lines())
def test_a_broken_line_costs_its_page_alone(kind, tmp_path):
    file = tmp_path / "docs_shard_0_v2.jsonl"
    good = json.dumps(mmc4_documents()[1]).encode()
    file.write_bytes(broken_lines()[kind] + b"\n\n" + good)
    with pytest.raises(UserError, match=f"^{kind.partition(',')[0]}: "):
        read_pages("mmc4", file)
    file.write_bytes(good + b"\n\n" + good)
    assert [page.id for page in read_pages("mmc4", file)] == ["docs_shard_0_v2/1", "docs_shard_0_v2/3"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.3", None, [0.1, 0.2]])
def test_similarities_are_finite_numbers(value, tmp_path):
    document = mmc4_documents()[1] | {"similarity_matrix": [[value]]}
    with pytest.raises(UserError, match=r"^wrong field similarity_matrix: "):
        read_pages("mmc4", write_mmc4(tmp_path, [document]))


@pytest.mark.parametrize("content", [b"", b"no archive", "cut off"], ids=str)
def test_a_damaged_archive_is_an_error_that_names_it(content, shard):
    archive = zipped(shard)
    archive.write_bytes(archive.read_bytes()[:300] if content == "cut off" else content)
    with pytest.raises(UserError, match=r"docs_shard_7_v2\.jsonl\.zip"):
        read_pages("mmc4", archive)


def test_an_archive_that_is_a_bomb_is_not_unpacked(shard, monkeypatch):
    archive = zipped(shard)
    monkeypatch.setattr(line_places, "LARGEST_FILE", shard.stat().st_size - 1)
    with pytest.raises(UserError, match="unzip it"):
        read_pages("mmc4", archive)


# ---------------------------------------------------------------------- OpenFlamingo's tar files


def test_tar_files_have_images_in_base64(shard, tmp_path):
    documents = [converted(document, tmp_path / "7") for document in mmc4_documents()]
    pages = read_pages("openflamingo_tar", write_openflamingo(tmp_path / "000000000.tar", documents))
    ids = [f"{1:032x}", f"{2:032x}"]
    assert [contents(page) for page in pages] == [(id, *page[1:]) for id, page in zip(ids, PAGES, strict=True)]
    assert [image.num_bytes for image in pages[0].unplaced] == [len(picture(0)), None]


def test_images_of_a_chatgpt_sequence_are_in_its_order(tmp_path):
    names = {"_!_IMAGE1_!_": picture(1), "_!_IMAGE2_!_": picture(2)}
    example = "_!_IMAGE2_!_ A dog. _!_IMAGE1_!_\nA cat. "
    page = read_pages("openflamingo_tar", write_openflamingo(tmp_path / "0.tar", [gpt_sequence(example, names)]))[0]
    assert contents(page) == (
        f"{1:032x}",
        None,
        [("_!_IMAGE2_!_", picture(2)), " A dog. ", ("_!_IMAGE1_!_", picture(1)), "\nA cat. "],
        [],
        None,
    )


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("broken base64", {"image_info": [{"image_name": "a", "image_base64": "a"}]}),
        ("wrong field image_map", gpt_sequence("_!_IMAGE3_!_", {"_!_IMAGE1_!_": b""})),
        ("wrong field example", {"is_gpt": True, "image_map": {}}),
    ],
)
def test_a_broken_document_in_a_tar_file_has_its_kind(kind, document, tmp_path):
    whole = mmc4_documents()[1]
    file = write_openflamingo(tmp_path / "0.tar", [document if "is_gpt" in document else whole | document])
    with pytest.raises(UserError, match=f"^{kind}: "):
        read_pages("openflamingo_tar", file)


def test_a_tar_file_that_is_cut_off_keeps_its_complete_pages(tmp_path):
    file = write_openflamingo(tmp_path / "0.tar", mmc4_documents())
    file.write_bytes(file.read_bytes()[:2500])
    with pytest.raises(UserError, match=r"^damaged shard: "):
        read_pages("openflamingo_tar", file)
