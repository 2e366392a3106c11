"""Writes pages and captioned images as M4's tar files.

:mod:`flamingo.data.readers.m4_tar` and :mod:`flamingo.data.readers.m4_pairs` read them.
"""

import io
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from flamingo.data.document import Image, Readable
from flamingo.data.pages.page import Page, PageImage, SectionBreak
from flamingo.data.readers.page_fields import SECTION_BREAK
from flamingo.data.records.record import Record
from flamingo.data.transforms.pictures import frame_bytes
from flamingo.utils.io import atomic_file

log = logging.getLogger(__name__)

#: The first bytes of pictures, and the last part of their members' names.
_KINDS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}


def write_shards(samples: Iterable[Page | Record], folder: Path, samples_per_shard: int) -> list[Path]:
    """Writes samples as ``000000.tar``, ``000001.tar``, ..., each with their number in ``000000_stats.json``.

    Pictures are written as they are. The picture of a page that cannot be read is written as a missing one.

    Args:
        samples: Pages, or captioned images, whose pictures must be readable.
        folder: The folder of the shards.
        samples_per_shard: The number of samples of each shard but the last.

    Returns:
        The shards.

    Raises:
        UserError: If a file cannot be written.
    """
    files: list[Path] = []
    remaining = iter(samples)
    while (first := next(remaining, None)) is not None:
        file = folder / f"{len(files):06d}.tar"
        start = len(files) * samples_per_shard
        size = _write_shard(file, chain([first], islice(remaining, samples_per_shard - 1)), start)
        with atomic_file(file.with_name(f"{file.stem}_stats.json")) as stream:
            json.dump({"count": size, "successes": size}, stream)
        files.append(file)
    return files


def _write_shard(file: Path, samples: Iterable[Page | Record], start: int) -> int:
    """Writes a shard, whose first sample has the number ``start``.

    Returns:
        The number of its samples.
    """
    number = start
    with atomic_file(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for sample in samples:
            key = f"{number:09d}"
            members = page_members(sample, key) if isinstance(sample, Page) else pair_members(sample, key)
            for name, content in members:
                _add(archive, name, content)
            number += 1
    return number - start


def page_members(page: Page, key: str) -> Iterator[tuple[str, bytes]]:
    """Yields the names and contents of the files of a page.

    Args:
        page: The page. Images whose place is not known come last.
        key: What the names begin with.
    """
    names: list[str] = []
    images: list[dict[str, str] | None] = []
    for place, part in enumerate([*page.parts, *page.unplaced]):
        if isinstance(part, PageImage):
            content, fault = _picture(part)
            images.append({"name": part.name, "fault": fault})
            name = f"{key}.{place}.image.{_kind(content)}"
        else:
            content = SECTION_BREAK.encode() if isinstance(part, SectionBreak) else part.encode()
            images.append(None)
            name = f"{key}.{place}.text.txt"
        if content is not None:
            names.append(name)
            yield name, content
    yield f"{key}.metadata.txt", "\n".join(names).encode()
    yield f"{key}.page.json", json.dumps(_additions(page, images)).encode()


def pair_members(record: Record, key: str) -> Iterator[tuple[str, bytes]]:
    """Yields the names and contents of the files of a captioned image. Each caption is a line of its text.

    Args:
        record: The captioned image.
        key: What the names begin with.

    Raises:
        Exception: If the picture cannot be read.
    """
    content = _content(record.image)
    yield f"{key}.image.{_kind(content)}", content
    yield f"{key}.text.txt", "\n".join(record.captions).encode()
    yield f"{key}.pair.json", json.dumps({"id": record.id, "split": record.split}).encode()


def _additions(page: Page, images: Sequence[dict[str, str] | None]) -> dict[str, Any]:
    first = len(page.parts)
    return {
        "id": page.id,
        "split": page.split,
        "images": list(images),
        "unplaced": list(range(first, first + len(page.unplaced))),
        "similarity": [] if page.similarity is None else page.similarity.tolist(),
    }


def _picture(image: PageImage) -> tuple[bytes | None, str]:
    """Returns the bytes of a picture, or None and the reason why there are none.

    Raises:
        MemoryError: If the picture does not fit into memory.
    """
    if image.image is None:
        return None, image.fault or "image missing"
    try:
        return _content(image.image), ""
    except MemoryError:
        raise
    except Exception as error:  # decoders of single frames raise nearly anything
        log.warning("an image is left out: %s: %s", image.name, error)
        return None, "image missing"


def _content(image: Image) -> bytes:
    frame = image.frames[0]
    assert isinstance(frame, str | Readable)
    return frame_bytes(frame)


def _kind(content: bytes | None) -> str:
    """Returns the last part of a picture's name. Readers do not use it; they look at the content."""
    for start, kind in _KINDS.items():
        if content is not None and content.startswith(start):
            return kind
    return "bin"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
