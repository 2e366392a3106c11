"""One self-contained page of HTML with training documents: their texts, their images, and the image of each text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamingo.report.page import template
from flamingo.utils.io import write_text


@dataclass(frozen=True)
class Passage:
    """An image, or consecutive tokens that see the same image."""

    text: str
    #: The number of the image in its document; for a text, of the image that it sees; -1: none.
    image: int
    #: Whether the loss counts the tokens.
    is_trained: bool
    is_image: bool = False
    #: The image as a data URI; None: it cannot be opened.
    picture: str | None = None


@dataclass(frozen=True)
class ShownDocument:
    """A document in reading order."""

    id: str
    facts: Sequence[str]
    passages: Sequence[Passage]


@dataclass(frozen=True)
class ShownDocuments:
    """Documents of one kind."""

    name: str
    facts: Sequence[str]
    #: Reason -> the number of samples, images and texts that are left out.
    drops: Mapping[str, int]
    documents: Sequence[ShownDocument]


def write_documents_page(output: Path, kinds: Sequence[ShownDocuments]) -> None:
    """Writes the page.

    Args:
        output: The file of the page.
        kinds: The documents of each kind.
    """
    page = template("documents_page.html").render(title="Training documents", kinds=kinds)
    write_text(output, page)
