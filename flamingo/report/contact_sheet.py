"""One self-contained page of HTML with captioned pictures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamingo.report.page import template
from flamingo.utils.io import write_text


@dataclass(frozen=True)
class Tile:
    """A picture with its caption."""

    name: str
    caption: str
    #: A data URI; None: no picture.
    picture: str | None


def jpeg_uri(content: bytes) -> str:
    """Returns the data URI of a JPEG file with this content."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def write_contact_sheet(
    output: Path,
    title: str,
    facts: Sequence[str],
    captions: Sequence[Tile],
    total: int,
    demonstrations: Sequence[Tile] = (),
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Writes the page.

    Args:
        output: The file of the page.
        title: The title.
        facts: How the captions were made.
        captions: The pictures that are shown.
        total: The number of captions, some of which the page may leave out.
        demonstrations: The demonstrations before each picture.
        skipped: Name -> the reason why another picture has no caption.
    """
    page = template("contact_sheet.html").render(
        title=title,
        facts=facts,
        captions=captions,
        total=total,
        demonstrations=demonstrations,
        skipped=skipped or {},
    )
    write_text(output, page)
