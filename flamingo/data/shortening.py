"""Shortens documents with too many tokens: they lose their first images until they fit."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from flamingo.data.document import Document, Image
from flamingo.utils.errors import UserError

Encoded = TypeVar("Encoded")


class TooManyTokensError(UserError):
    """A document has more tokens than the limit allows."""


def encode_shortened(
    documents: Sequence[Document], encode: Callable[[Sequence[Document]], Encoded]
) -> tuple[Encoded, int]:
    """Returns the encoded documents, and the number of images that each of them lost.

    Args:
        documents: Documents with the same images.
        encode: Encodes the documents, and raises TooManyTokensError if one of them does not fit.

    Raises:
        TooManyTokensError: If documents with one image do not fit.
    """
    dropped = 0
    while True:
        try:
            return encode(documents), dropped
        except TooManyTokensError:
            if _num_images(documents[0]) < 2:
                raise
            documents = [without_first_image(document) for document in documents]
            dropped += 1


def without_first_image(document: Document) -> Document:
    """Returns a document of several images without everything before its second image."""
    places = [place for place, part in enumerate(document.parts) if isinstance(part, Image)]
    return Document(document.parts[places[1] :], document.id)


def _num_images(document: Document) -> int:
    return sum(isinstance(part, Image) for part in document.parts)
