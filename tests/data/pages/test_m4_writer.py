"""Pages of every layout, written as M4's tar files and read back, are equal, with equal bytes of their pictures."""

import json
import tarfile

import numpy as np
import pytest

from flamingo.data.document import Image
from flamingo.data.embedded_picture import EmbeddedPicture
from flamingo.data.pages.m4_writer import write_shards
from flamingo.data.pages.page import Page, PageImage, SectionBreak
from flamingo.data.records.record import Record
from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.transforms.pictures import frame_bytes
from tests.data.readers.page_files import contents, picture, read_pages
from tests.data.readers.page_layouts import LAYOUTS


def test_every_layout_of_pages_is_among_the_cases():
    assert LAYOUTS.keys() == {name for name, format in SHARD_FORMATS.items() if format.has_pages}


@pytest.mark.parametrize("format", LAYOUTS)
def test_pages_read_back_are_equal(format, tmp_path):
    pages = read_pages(format, LAYOUTS[format](tmp_path))
    files = write_shards(pages, tmp_path / "packed", samples_per_shard=100)
    again = read_pages("m4", files[0])
    assert len(files) == 1 and any(part for page in pages for part in (page.parts, page.unplaced))
    assert [contents(page) for page in again] == [contents(page) for page in pages]
    sizes = [[image.num_bytes for image in images_of(page)] for page in pages]
    if format != "mint1t":  # the size of a frame is not known before it is read
        assert [[image.num_bytes for image in images_of(page)] for page in again] == sizes
    twice = write_shards(again, tmp_path / "twice", samples_per_shard=100)
    assert twice[0].read_bytes() == files[0].read_bytes()


def images_of(page):
    return [part for part in (*page.parts, *page.unplaced) if isinstance(part, PageImage)]


def small(number):
    image = PageImage("a.png", Image(EmbeddedPicture(f"{number}", picture(number, "PNG"))))
    return Page(f"page {number}", (f"text {number}", image, SectionBreak()))


def test_shards_have_the_members_that_m4_expects(tmp_path):
    """M4 drops a page without all files that metadata.txt names, and takes a section's end as a text."""
    unplaced = PageImage("b.jpg", Image(EmbeddedPicture("b", picture(3))))
    page = Page("p", ("one",), None, (unplaced,), np.array([[0.5]]))
    file = write_shards([small(1), page], tmp_path, samples_per_shard=5)[0]
    with tarfile.open(file) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    first, second = "000000000", "000000001"
    parts = {
        f"{first}.0.text.txt": b"text 1",
        f"{first}.1.image.png": picture(1, "PNG"),
        f"{first}.2.text.txt": b"END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED",
    }
    others = {f"{second}.0.text.txt": b"one", f"{second}.1.image.jpeg": picture(3)}
    lists = {
        f"{first}.metadata.txt": "\n".join(parts).encode(),
        f"{second}.metadata.txt": "\n".join(others).encode(),
    }
    additions = {name: content for name, content in members.items() if name.endswith(".page.json")}
    assert additions.keys() == {f"{first}.page.json", f"{second}.page.json"}
    assert members == parts | others | lists | additions


def test_pages_are_divided_into_shards_with_their_numbers(tmp_path):
    files = write_shards(map(small, range(5)), tmp_path, samples_per_shard=2)
    assert [file.name for file in files] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [page.id for file in files for page in read_pages("m4", file)] == [f"page {number}" for number in range(5)]
    with tarfile.open(files[2]) as archive:  # keys are unique in all shards
        assert archive.getnames()[0] == "000000004.0.text.txt"
    stats = [json.loads((tmp_path / f"00000{number}_stats.json").read_text()) for number in range(3)]
    assert [entry["successes"] for entry in stats] == [2, 2, 1]
    assert write_shards([], tmp_path / "none", samples_per_shard=2) == []


def test_a_picture_that_cannot_be_read_is_written_as_missing(tmp_path):
    gone = PageImage("gone.png", Image(str(tmp_path / "gone.png")))
    file = write_shards([Page("p", ("text", gone))], tmp_path, samples_per_shard=1)[0]
    assert contents(read_pages("m4", file)[0]) == ("p", None, ["text", ("gone.png", "image missing")], [], None)


def test_captioned_images_read_back_are_equal(tmp_path):
    pictures = [picture(1), picture(2, "PNG")]
    images = [Image(EmbeddedPicture(str(number), content)) for number, content in enumerate(pictures)]
    records = [Record("a/b.c", images[0], ("A cät .", "Two ."), "val"), Record("2", images[1], ("A dog .",), None)]
    file = write_shards(records, tmp_path, samples_per_shard=5)[0]
    again = read_pages("m4_pairs", file)
    assert [(r.id, r.captions, r.split) for r in again] == [(r.id, r.captions, r.split) for r in records]
    assert [frame_bytes(record.image.frames[0]) for record in again] == pictures
    with tarfile.open(file) as archive:
        names = archive.getnames()
    key = "000000000"
    assert names[:3] == [f"{key}.image.jpeg", f"{key}.text.txt", f"{key}.pair.json"]
    assert names[3] == "000000001.image.png"
