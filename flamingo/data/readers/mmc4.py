"""MMC4: JSON lines, also in zip archives. The images lie in folders, or in a store by their URLs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flamingo.data.pages.page import Page, PageImage
from flamingo.data.readers.line_places import LinePlace, line_at, line_places
from flamingo.data.readers.page_fields import page_field, page_list, page_matrix, page_text, shard_errors
from flamingo.data.readers.page_images import local_image, stored_image
from flamingo.data.url_store import UrlStore
from flamingo.utils.reading import json_object

_NUMBER = re.compile(r"shard_(\d+)")


def mmc4_entries(file: Path) -> list[LinePlace]:
    """Returns the places of the pages of a ``docs_shard_N_v2.jsonl``, or of its zip archive.

    Raises:
        UserError: If the file cannot be read.
    """
    return line_places(file)


def mmc4_page(file: Path, entry: LinePlace, images: Path | UrlStore | None) -> Page:
    """Returns the page at a place. Its images are unplaced, each with its similarity to each text.

    The picture ``image_name`` of shard N is searched in the folders ``N`` (OpenFlamingo), ``FILE_images`` (MMC4's
    downloader) and in the folder of the images itself.

    Args:
        file: The shard.
        entry: The place of the page.
        images: The folder of the images, by default that of the shard; or a store of them, by ``raw_url``.

    Raises:
        UserError: If the page is broken.
    """
    with shard_errors():
        document = json_object(line_at(file, entry), "the page")
    id = f"{file.name.partition('.')[0]}/{entry[0]}"
    if isinstance(images, UrlStore):
        store = images
        return page_of_document(document, id, lambda info: _stored(info, store))
    folders = _folders(file, images or file.parent)
    return page_of_document(document, id, lambda info: _found(info, folders))


def page_of_document(document: dict[str, Any], id: str, image: Callable[[dict[str, Any]], PageImage]) -> Page:
    """Returns a page of MMC4.

    Args:
        document: The JSON of the page.
        id: The id of the page.
        image: Returns an image of the page from its entry of ``image_info``.

    Raises:
        UserError: If a field is missing or wrong.
    """
    texts = [page_text(text) for text in page_list(document, "text_list", str)]
    infos = page_list(document, "image_info", dict)
    unplaced = tuple(image(info) for info in infos)
    if not infos:
        return Page(id, tuple(texts))
    similarity = page_matrix(document, "similarity_matrix", len(infos), len(texts))
    return Page(id, tuple(texts), unplaced=unplaced, similarity=similarity)


def _folders(file: Path, images: Path) -> list[Path]:
    number = _NUMBER.search(file.name)
    names = [number[1]] if number else []
    # The downloader removes the last suffix of the name.
    names.append(f"{file.stem}_images")
    return [images / name for name in names] + [images]


def _found(info: dict[str, Any], folders: list[Path]) -> PageImage:
    name = page_field(info, "image_name", str)
    for folder in folders:
        image = local_image(name, name, folder, folder)
        if image.image is not None:
            return image
    return image


def _stored(info: dict[str, Any], store: UrlStore) -> PageImage:
    return stored_image(page_field(info, "image_name", str), page_field(info, "raw_url", str), store)
