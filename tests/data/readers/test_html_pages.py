"""HTML and Markdown files: what a reader of the page sees, in its order, and nothing that is run or fetched."""

import sys

import pytest

from flamingo.data.document import Image
from flamingo.data.readers import html_pages, markdown_pages
from flamingo.data.streams import SHARD_FORMATS
from flamingo.data.streams.shard_index import open_index
from flamingo.data.streams.shard_reader import ShardReader
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import import_name
from tests.data.readers.page_files import contents, picture, read_pages


@pytest.fixture
def folder(tmp_path):
    """A site with a picture, and a file outside."""
    (tmp_path / "site" / "img").mkdir(parents=True)
    (tmp_path / "site" / "img" / "a b.png").write_bytes(picture(7, "PNG"))
    (tmp_path / "outside.png").write_bytes(picture(8, "PNG"))
    return tmp_path / "site"


CAT = ("img/a%20b.png", picture(7, "PNG"))


def parts_of(file, text, images=None):
    file.write_text(text)
    pages = read_pages("markdown" if file.suffix == ".md" else "html", file, images)
    assert [page.id for page in pages] == [f"{file.parent.name}/{file.stem}"]
    return contents(pages[0])[2]


PAGE = """<!DOCTYPE html>
<html><head><title>Title</title><meta charset="utf-8"><script>var head = "<p>no</p>";</script></head>
<body class="x">
<!-- a comment <img src="img/a%20b.png"> -->
<h1>Cats &amp; d&ouml;gs</h1>
<p>A   <b>black</b>
cat<br>sleeps.</p>
<div>Loose text<p>and more<img src="img/a%20b.png" alt="a cat">after it.
<script>document.write("<img src='img/a%20b.png'>")</script><style>p { color: red }</style>
<noscript><img src="img/a%20b.png"></noscript><template>hidden</template>
<svg><text>drawn</text></svg>
</p></div><ul><li>one</li><li>two</li></ul>
<img src="none.png"/></body></html>"""


def test_texts_and_images_are_in_reading_order(folder):
    assert parts_of(folder / "page.html", PAGE) == [
        "Cats & dögs\n\nA black cat\nsleeps.\n\nLoose text\n\nand more",
        CAT,
        "after it.\n\none\n\ntwo",
        ("none.png", "image missing"),
    ]


@pytest.mark.parametrize(
    ("html", "parts"),
    [
        ("", []),
        ("plain", ["plain"]),
        ("<head><title>t</title><body>text", ["text"]),
        ("<p>a<script>b", ["a"]),
        ("<p>a<!-- b <p>c", ["a"]),
        ("<p>a<p title='b", ["a"]),
        ("AT&T", ["AT&T"]),
        ("<svg><svg></svg>a</svg>b<svg></template>c", ["b"]),
        ("a</script>b</svg>c", ["a\n\nb\n\nc"]),
        ("<svg/>a<svg><g></svg>b", ["ab"]),
        ("<p>1 < 2 &lt;b&gt;", ["1 < 2 <b>"]),
        ("<a href='javascript:alert(1)' onclick='x()'>link</a>", ["link"]),
        ("<img><img src=''>", [("", "image missing")] * 2),
    ],
)
def test_incomplete_html_is_read_as_far_as_it_goes(html, parts, folder):
    assert parts_of(folder / "page.html", html) == parts


@pytest.mark.parametrize("piece", ["<a ", '<a b="', "<!--", "<svg></template>", "<"])
def test_time_grows_with_the_length_of_broken_html(piece, folder):
    """With its method ``close`` the parser would take hours for the first of these pages."""
    (folder / "page.html").write_text(piece * 20_000)
    assert len(read_pages("html", folder / "page.html")) == 1


def test_only_pictures_in_the_data_folder_are_read(folder):
    """By default the file's own folder; a larger one by ``images``."""
    (folder / "articles").mkdir()
    sources = {
        "../img/a%20b.png?v=2#top": "path outside the data folder",
        "../../outside.png": "path outside the data folder",
        "%2e%2e/%2e%2e/outside.png": "path outside the data folder",
        str(folder.parent / "outside.png"): "path outside the data folder",
        f"file://{folder}/img/a%20b.png": "file: URL",
        "data:image/png;base64,AAAA": "data: URL",
        "https://example.com/a.png": "remote image",
        "javascript:alert(1)": "remote image",
    }
    html = "".join(f'<img src="{source}">' for source in sources)
    file = folder / "articles" / "page.html"
    assert dict(parts_of(file, html)) == sources
    inside = {"../img/a%20b.png?v=2#top": picture(7, "PNG")}
    assert dict(parts_of(file, html, folder)) == sources | inside


def test_images_may_come_from_a_store_of_urls(folder):
    class Store:
        def find(self, url):
            return Image(str(folder / "img" / "a b.png")) if url == "https://example.com/a" else None

    html = '<img src="https://example.com/a"><img src="https://example.com/b">'
    assert parts_of(folder / "page.html", html, Store()) == [
        ("https://example.com/a", picture(7, "PNG")),
        ("https://example.com/b", "image missing"),
    ]


def test_a_large_file_and_one_that_is_no_text_are_refused(folder, monkeypatch):
    file = folder / "page.html"
    assert import_name(SHARD_FORMATS["html"].count)(file) == 1
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"^a text is not UTF-8: "):
        read_pages("html", file)
    file.write_bytes(b"<![x[")
    with pytest.raises(UserError, match=r"^broken HTML: "):
        read_pages("html", file)
    monkeypatch.setattr(html_pages, "LARGEST_FILE", 3)
    with pytest.raises(UserError, match=r"^file too large: "):
        read_pages("html", file)


def test_a_file_has_no_index_beside_it(folder):
    (folder / "a.html").write_text("a")
    (folder / "b.md").write_text("b")
    reader = ShardReader([folder / "a.html"], "html")
    assert reader.sample(0, 0).texts == ["a"]
    assert len(open_index(folder / "b.md", "markdown", cache=None)) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["a.html", "b.md", "img"]


MARKDOWN = """---
title: No text
---
# Cats

A *black* cat
sleeps.

![a cat](img/a%20b.png "title") After it.

<script>alert(1)</script>

| a | b |
|---|---|
| 1 | 2 |

![](<img/a b.png>) ![](../outside.png) ![](file:///etc/passwd) ![](https://example.com/a.png)
"""


def test_markdown_is_read_as_its_html(folder):
    pytest.importorskip("markdown_it")
    assert parts_of(folder / "page.md", MARKDOWN) == [
        "Cats\n\nA black cat sleeps.",
        CAT,
        "After it.\n\na\n\nb\n\n1\n\n2",
        CAT,
        ("../outside.png", "path outside the data folder"),
        ("file:///etc/passwd", "file: URL"),
        ("https://example.com/a.png", "remote image"),
    ]


def test_markdown_without_its_package_is_an_error_that_names_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    markdown_pages._renderer.cache_clear()
    with pytest.raises(UserError, match="markdown-it-py"):
        parts_of(folder / "page.md", "text")
    markdown_pages._renderer.cache_clear()
