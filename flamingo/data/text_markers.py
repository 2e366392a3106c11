"""Texts with ``<image>`` markers -> pieces, whose tokens see one image each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flamingo.data.document import Frame, Image

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Piece:
    """A stretch of text whose tokens see the same image (-1: none), and are either all trained on or all not."""

    text: str
    image: int
    train: bool


def marker_pieces(image_marker: str, previous: Piece | None, image: int) -> list[Piece]:
    """Returns the pieces of an image's marker. The text before ``<image>`` appears once between two images."""
    lead, tail = image_marker.split(IMAGE_TOKEN)
    marker = Piece(IMAGE_TOKEN + tail, image, train=False)
    if not lead or (previous is not None and previous.text.endswith(lead)):
        return [marker]
    return [Piece(lead, -1 if previous is None else previous.image, train=False), marker]


def pieces_at(pieces: Sequence[Piece], offsets: Sequence[tuple[int, int]]) -> list[Piece]:
    """Returns the piece of each token.

    Args:
        pieces: The pieces of a text.
        offsets: The first character of each token in the joined texts, and the one after its last.
    """
    piece_of_character: list[Piece] = []
    for piece in pieces:
        piece_of_character += [piece] * len(piece.text)
    # Look up the last character: some tokenizers' offsets exclude the spaces at a token's beginning.
    return [piece_of_character[max(end - 1, 0)] for _, end in offsets]


def learnt_span(text: Piece | None, piece_of_token: list[Piece]) -> range | None:
    """Returns the positions of a piece's tokens; None if the model is not trained on them."""
    if text is None or not text.train:
        return None
    tokens = [token for token, piece in enumerate(piece_of_token) if piece is text]
    return range(tokens[0], tokens[-1] + 1) if tokens else None


def pieces_of_text(text: str, num_images: int, image_marker: str, name: str) -> list[Piece]:
    """Returns the pieces of a text with markers.

    Args:
        text: The text, with a marker for each image.
        num_images: The number of images.
        image_marker: The marker, which contains ``<image>``.
        name: The name of the text in errors.

    Raises:
        ValueError: If the numbers of markers and images differ.
    """
    head, *chunks = text.split(IMAGE_TOKEN)
    if len(chunks) != num_images:
        raise ValueError(f"{name} has {len(chunks)} <image> markers, but {num_images} images were given")
    pieces = [Piece(head, -1, train=False)]
    for number, chunk in enumerate(chunks):
        pieces += marker_pieces(image_marker, pieces[-1], number)
        if chunk:
            pieces.append(Piece(chunk, number, train=False))
    return pieces


def texts_and_images(text: str | Sequence[str] | None, images: Any) -> tuple[list[str], list[list[Image]]]:
    """Returns the texts and the images of each, from all forms that processors of transformers accept.

    Args:
        text: One text, or several.
        images: For one text an image or a list of images; for several texts a list of lists; None: no images.

    Raises:
        ValueError: If there is no text, or not one list of images for each text.
    """
    if text is None:
        raise ValueError("a text is needed, with at least the marker '<image>'")
    if isinstance(text, str):
        texts, rows = [text], [_as_list(images)]
    else:
        texts = list(text)
        rows = [[] for _ in texts] if images is None else images
    if len(rows) != len(texts) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{len(texts)} texts need {len(texts)} lists of images")
    images_of_texts = []
    for row in rows:
        images_of_texts.append([_as_image(image) for image in row])
    return texts, images_of_texts


def _as_list(images: Any) -> list[Any]:
    if images is None:
        return []
    return images if isinstance(images, list) else [images]


def _as_image(image: Frame | Image) -> Image:
    return image if isinstance(image, Image) else Image(image)


def special_tokens(tokenizer: Any) -> list[str]:
    """Returns all special tokens of a tokenizer, including those without a role."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys(tokenizer.all_special_tokens + list(added)))
