"""Markdown files with local images, read as the HTML that they make. Needs markdown-it-py."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from flamingo.data.pages.page import Page
from flamingo.data.readers.html_pages import file_content, page_of_html
from flamingo.data.readers.page_fields import decoded_text, shard_errors
from flamingo.data.url_store import UrlStore
from flamingo.utils.errors import UserError

#: Metadata in YAML before the text, as site generators have it.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def markdown_page(file: Path, entry: int, images: Path | UrlStore | None) -> Page:
    """Returns the page of a Markdown file, as :func:`flamingo.data.readers.html_pages.html_page` returns its HTML.

    Args:
        file: The file.
        entry: The place of the page.
        images: The folder that images may lie in, by default that of the file; or a store of the images.

    Raises:
        UserError: If the file cannot be read, is not UTF-8, or markdown-it-py is missing.
    """
    with shard_errors():
        text = decoded_text(file_content(file))
    html = _renderer().render(_FRONT_MATTER.sub("", text))
    return page_of_html(html, file, images)


@cache
def _renderer() -> Any:
    try:
        markdown_it = import_module("markdown_it")
    except ImportError as error:
        raise UserError("Markdown files need the package markdown-it-py: pip install 'flamingo[markdown]'") from error
    renderer = markdown_it.MarkdownIt("commonmark").enable("table")
    # All addresses become images, so that those that are not read are counted.
    renderer.validateLink = lambda url: True
    return renderer
