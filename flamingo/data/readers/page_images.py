"""The pictures that pages name: files in a folder, or entries of a store of URLs.

Pages are untrusted. Nothing is fetched, and no path leaves the folder.
"""

import re
import stat
from pathlib import Path

from flamingo.data.document import Image
from flamingo.data.pages.page import PageImage
from flamingo.data.url_store import UrlStore

_SCHEME = re.compile(r"\s*(file|data|https?|ftp|blob|cid|about|javascript):|//", re.IGNORECASE)


def local_image(name: str, path: str, base: Path, root: Path) -> PageImage:
    """Returns an image of a page, with its file if there is one.

    Links are followed, and their targets must lie in ``root``.

    Args:
        name: The image as the page names it.
        path: The path of its file, relative to ``base``.
        base: The folder that paths are relative to.
        root: The folder that files may lie in.
    """
    fault = url_fault(name)
    if fault:
        return PageImage(name, None, fault=fault)
    try:
        file = (base / path).resolve()
        if not file.is_relative_to(root.resolve()):
            return PageImage(name, None, fault="path outside the data folder")
        status = file.stat()
    except (OSError, ValueError, RuntimeError):  # no such file, a byte 0 in the name, links in a circle
        return PageImage(name, None, fault="image missing")
    if not stat.S_ISREG(status.st_mode):
        return PageImage(name, None, fault="image missing")
    return PageImage(name, Image(str(file)), status.st_size)


def stored_image(name: str, url: str, store: UrlStore | None) -> PageImage:
    """Returns an image of a page, with its picture if the store has it.

    Args:
        name: The image as the page names it.
        url: The URL of its picture.
        store: The store; None: there is none.
    """
    fault = url_fault(url)
    if fault in ("file: URL", "data: URL"):
        return PageImage(name, None, fault=fault)
    image = store.find(url) if store is not None else None
    return PageImage(name, image, fault="" if image else "image missing")


def url_fault(name: str) -> str:
    """Returns why an image is not read if its name is a URL: "file: URL", "data: URL" or "remote image"; else ""."""
    match = _SCHEME.match(name)
    if match is None:
        return ""
    scheme = (match[1] or "").lower()
    return f"{scheme}: URL" if scheme in ("file", "data") else "remote image"
