"""One's own pages as JSON lines, and the paths of their images."""

import json
import os
import tracemalloc

import pytest

from flamingo.data.document import Image
from flamingo.data.readers.page_rows import page_row
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import contents, entries_of, picture, read_pages


def image(path):
    return {"type": "image", "image": path}


def text(words):
    return {"type": "text", "text": words}


def written(folder, *rows):
    """Rows in a file below ``folder``, beside the picture ``pictures/a b.png``."""
    (folder / "data" / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "pictures" / "a b.png").write_bytes(picture(7, "PNG"))
    (folder / "outside.png").write_bytes(picture(8, "PNG"))
    file = folder / "data" / "pages.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_parts_are_in_reading_order(tmp_path):
    file = written(
        tmp_path,
        {"id": "first", "content": [text(" A "), image("pictures/a b.png"), text("b"), image("none.png")]},
        {"content": [text("c")], "split": "val"},
    )
    assert [contents(page) for page in read_pages("page_rows", file)] == [
        ("first", None, [" A ", ("pictures/a b.png", picture(7, "PNG")), "b", ("none.png", "image missing")], [], None),
        ("pages/2", "val", ["c"], [], None),
    ]


def test_paths_are_relative_to_the_folder_of_the_images(tmp_path):
    file = written(tmp_path, {"content": [image("a b.png")]})
    page = read_pages("page_rows", file, tmp_path / "data" / "pictures")[0]
    assert contents(page)[2] == [("a b.png", picture(7, "PNG"))]


def test_images_may_be_urls_in_a_store(tmp_path):
    class Store:
        def find(self, url):
            return Image(str(tmp_path / "outside.png")) if url == "https://example.com/a" else None

    file = written(tmp_path, {"content": [image("https://example.com/a"), image("https://example.com/b")]})
    parts = contents(read_pages("page_rows", file, Store())[0])[2]
    assert parts == [("https://example.com/a", picture(8, "PNG")), ("https://example.com/b", "image missing")]


def test_no_image_is_read_from_outside_the_folder(tmp_path):
    """Links, URLs, devices and names that no file can have, each with its fault."""
    names = {
        "../outside.png": "path outside the data folder",
        "pictures/../../outside.png": "path outside the data folder",
        str(tmp_path / "outside.png"): "path outside the data folder",
        "link.png": "path outside the data folder",
        "circle.png": "image missing",
        "pipe.png": "image missing",
        "pictures": "image missing",
        "a\0b.png": "image missing",
        "x" * 5000: "image missing",
        "": "image missing",
        f"file://{tmp_path}/data/pictures/a b.png": "file: URL",
        " FILE:pictures/a b.png": "file: URL",
        "data:image/png;base64,AAAA": "data: URL",
        "https://example.com/a.png": "remote image",
        "//example.com/a.png": "remote image",
    }
    file = written(tmp_path, {"content": [image(name) for name in names]})
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "data" / "circle.png").symlink_to("circle.png")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    page = read_pages("page_rows", file)[0]
    assert dict(contents(page)[2]) == names


def test_links_within_the_folder_are_followed(tmp_path):
    file = written(tmp_path, {"content": [image("link.png"), image(str(tmp_path / "data" / "link.png"))]})
    (tmp_path / "data" / "link.png").symlink_to("pictures/a b.png")
    (tmp_path / "linked").symlink_to("data")
    for place in (file, tmp_path / "linked" / "pages.jsonl"):
        assert [part[1] for part in contents(read_pages("page_rows", place)[0])[2]] == [picture(7, "PNG")] * 2


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("unknown field", {"content": [], "contents": []}),
        ("wrong field content", {"id": "a"}),
        ("wrong field content", {"content": ["text"]}),
        ("wrong field id", {"id": 3, "content": []}),
        ("wrong part of the content", {"content": [{"type": "video", "video": "a.mp4"}]}),
        ("wrong part of the content", {"content": [{"type": "text", "text": None}]}),
        ("wrong part of the content", {"content": [{"type": "text", "text": "a", "image": "b"}]}),
        ("half a character", {"content": [text("\ud83d")]}),
    ],
)
def test_a_broken_row_costs_its_page_alone(kind, row, tmp_path):
    with pytest.raises(UserError, match=f"^{kind}: "):
        read_pages("page_rows", written(tmp_path, row))


def test_a_line_of_50_megabytes_is_indexed_and_skipped(tmp_path):
    file = written(tmp_path, {"content": [text("short")]})
    row = file.read_bytes()
    with file.open("wb") as stream:
        stream.write(b"{")
        stream.seek(50_000_000)
        stream.write(b"}\n" + row)
    tracemalloc.start()
    long, short = entries_of("page_rows", file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    with pytest.raises(UserError, match=r"^line too long: "):
        page_row(file, long, None)
    assert page_row(file, short, None).texts == ["short"]
