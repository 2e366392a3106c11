"""HTML files with local images. Scripts, styles and comments are no text; nothing is run or fetched."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.readers.page_fields import decoded_text, page_text, shard_errors
from flamingo.data.readers.page_images import local_image, stored_image
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError
from flamingo.utils.reading import regular_file

#: A larger file is not read, in bytes.
LARGEST_FILE = 16 << 20
#: Elements whose content is no text of the page.
_HIDDEN = ("head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "textarea")
#: Elements within a paragraph. All others end it.
_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|button|cite|code|data|del|dfn|em|font|i|img|ins|kbd|label|mark|picture|q|rp|rt|ruby|s|"
    "samp|small|source|span|strike|strong|sub|sup|time|tt|u|var|wbr"
)


def single_entry(file: Path) -> list[int]:
    """Returns the place of the only page of a file."""
    return [0]


def single_count(file: Path) -> int:
    """Returns 1: a file is one page."""
    return 1


def html_page(file: Path, entry: int, images: Path | UrlStore | None) -> Page:
    """Returns the page of an HTML file. Paragraphs of one text are divided by an empty line.

    Args:
        file: The file.
        entry: The place of the page.
        images: The folder that images may lie in, by default that of the file; their paths are relative to the file. Or
            a store of the images by their URLs.

    Raises:
        UserError: If the file cannot be read, or is not UTF-8.
    """
    with shard_errors():
        text = decoded_text(file_content(file))
    return page_of_html(text, file, images)


def file_content(file: Path) -> bytes:
    """Returns the bytes of a file.

    Raises:
        OSError: If it cannot be read.
        UserError: If it is too large.
    """
    size = regular_file(file).stat().st_size
    if size > LARGEST_FILE:
        raise UserError(f"file too large: it has {size:,} bytes, more than {LARGEST_FILE:,}")
    return file.read_bytes()


def page_of_html(html: str, file: Path, images: Path | UrlStore | None) -> Page:
    """Returns the page of a text in HTML; see :func:`html_page`.

    Raises:
        UserError: If the parser cannot read it.
    """
    parser = _Parser()
    try:
        # Not closed: a tag, comment or script that has no end is no text. The parser would begin anew at each character
        # of it, which takes hours for some pages. The line break ends a character reference.
        parser.feed(page_text(html) + "\n")
    except AssertionError as error:  # the parser's answer to declarations of an unknown kind
        raise UserError(f"broken HTML: {error}") from error
    parts: list[PagePart] = []
    for piece in parser.pieces():
        parts.append(piece if isinstance(piece, str) else _image(piece.path, file, images))
    return Page(f"{file.parent.name}/{file.stem}", tuple(parts))


class _Source:
    """The address of an image."""

    def __init__(self, path: str) -> None:
        self.path = path


class _Parser(HTMLParser):
    """Collects the paragraphs and images of a page in reading order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str | _Source] = []
        self._paragraphs: list[str] = []
        self._paragraph: list[str] = []
        #: The hidden element that is open, and how many of its kind are open in each other.
        self._hidden: str | None = None
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Notes an image, a hidden element, or the end of a paragraph."""
        if tag == "body":  # a page may not close its head
            self._hidden = None
        if self._hidden is None and tag in _HIDDEN:
            self._hidden, self._depth = tag, 0
        if tag == self._hidden:
            self._depth += 1
        if self._hidden is not None:
            return
        if tag == "img":
            self._end_text()
            self._pieces.append(_Source(dict(attrs).get("src") or ""))
        elif tag == "br":
            self._paragraph.append("\n")
        elif not _INLINE.fullmatch(tag):
            self._end_paragraph()

    def handle_endtag(self, tag: str) -> None:
        """Notes the end of a hidden element, or of a paragraph."""
        if self._hidden is None and not _INLINE.fullmatch(tag):
            self._end_paragraph()
        if tag == self._hidden:
            self._depth -= 1
            if self._depth == 0:
                self._hidden = None

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Notes an element without content, ``<img/>``. A hidden one hides nothing."""
        if tag not in _HIDDEN:
            self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        """Adds to the paragraph."""
        if self._hidden is None:
            self._paragraph.append(re.sub(r"\s+", " ", data))

    def pieces(self) -> list[str | _Source]:
        """Returns the texts and images of the page."""
        self._end_text()
        return self._pieces

    def _end_paragraph(self) -> None:
        lines = re.sub(r" +", " ", "".join(self._paragraph)).split("\n")
        text = "\n".join(line.strip() for line in lines).strip()
        if text:
            self._paragraphs.append(text)
        self._paragraph.clear()

    def _end_text(self) -> None:
        self._end_paragraph()
        if self._paragraphs:
            self._pieces.append("\n\n".join(self._paragraphs))
        self._paragraphs.clear()


def _image(source: str, file: Path, images: Path | UrlStore | None) -> PageImage:
    if not source.strip():
        return PageImage("", None, fault="image missing")
    if isinstance(images, UrlStore):
        return stored_image(source, source, images)
    # A query such as ?v=2 is no part of a file's name.
    path = unquote(re.split(r"[?#]", source)[0])
    return local_image(source, path, file.parent, images or file.parent)
