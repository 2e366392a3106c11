"""Links from a page to a file of the repository lead to a page of the site that shows the file.

In ``docs/data.md`` a link such as ``../flamingo/data/order.py`` leads somewhere for a reader of the repository. The
site has its own files alone, so each file that is linked gets a page below ``repository/``. MkDocs calls ``on_files``
and ``on_page_markdown``.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
#: The folder of the site with the pages of files.
FOLDER = "repository"
#: The beginning of a link or an image, with its target up to the anchor.
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
#: Files that a page shows as code, and the languages of that; others are copied.
LANGUAGES = {".py": "python", ".yaml": "yaml", ".csv": "text", ".cfg": "ini", ".cff": "yaml", ".txt": "text"}
LANGUAGES |= {"": "text"}
#: The search finds pages of docs/ alone.
FRONT_MATTER = "---\nsearch: {exclude: true}\n---\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files with those of the repository that pages link to, and those that these link to."""
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while pages:
        uri, text = pages.pop()
        for path in linked_paths(uri, text):
            added = site_uri(path)
            if added.startswith(f"{FOLDER}/") and added not in files.src_uris:
                files.append(_file(path, added, config))
                if path.endswith(".md") or (ROOT / path).is_dir():
                    pages.append((added, _text(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Returns the text of a page, whose links to files of the repository lead to pages of the site."""
    return with_site_links(page.file.src_uri, markdown)


def with_site_links(uri: str, text: str) -> str:
    """Returns the text of a page with its links as the site needs them.

    Args:
        uri: The page's place in the site's sources, such as ``data.md`` or ``repository/CHANGELOG.md``.
        text: Its Markdown.
    """

    def site_link(match: re.Match[str]) -> str:
        path = _repository_path(uri, match[1])
        return posixpath.relpath(site_uri(path), posixpath.dirname(uri) or ".") if _exists(path) else match[1]

    return LINK.sub(site_link, text)


def linked_paths(uri: str, text: str) -> Iterator[str]:
    """Yields the paths in the repository of the files and folders that a page links to."""
    for target in LINK.findall(text):
        path = _repository_path(uri, target)
        if _exists(path):
            yield path


def site_uri(path: str) -> str:
    """Returns the place in the site's sources of a file or folder of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    is_page = (ROOT / path).is_dir() or Path(path).suffix in LANGUAGES
    return f"{FOLDER}/{path}.md" if is_page else f"{FOLDER}/{path}"


def _repository_path(uri: str, target: str) -> str:
    """Returns the path in the repository that a link of a page leads to."""
    place = uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else f"docs/{uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))


def _exists(path: str) -> bool:
    return not path.startswith("..") and (ROOT / path).exists()


def _file(path: str, uri: str, config: MkDocsConfig) -> File:
    if uri.endswith(".md"):
        return File.generated(config, uri, content=FRONT_MATTER + _text(path))
    return File.generated(config, uri, abs_src_path=str(ROOT / path))


def _text(path: str) -> str:
    """Returns the Markdown of a page: of a folder its files, of a file what is in it."""
    place = ROOT / path
    if place.is_dir():
        names = sorted(child.name for child in place.iterdir() if not child.name.startswith(("_", ".")))
        lines = [f"- [`{name}`]({place.name}/{name})" for name in names]
        return "\n".join([f"# `{path}/`", "", *lines, ""])
    text = place.read_text(encoding="utf-8")
    if place.suffix == ".md":
        return text
    return f"# `{path}`\n\n````{LANGUAGES[place.suffix]}\n{text}````\n"
