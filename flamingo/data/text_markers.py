"""Texts with ``<image>`` markers -> pieces, whose tokens see one image each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flamingo.data.document import Frame, Image

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Piece:
    """A stretch of text whose tokens see the same image (-1: none) and are all trained on or not."""

    text: str
    image: int
    train: bool


def marker_pieces(image_marker: str, previous: Piece | None, image: int) -> list[Piece]:
    """Returns the pieces that stand for an image; the part before ``<image>`` stands once between two images."""
    lead, tail = image_marker.split(IMAGE_TOKEN)
    marker = Piece(IMAGE_TOKEN + tail, image, train=False)
    if not lead or (previous is not None and previous.text.endswith(lead)):
        return [marker]
    return [Piece(lead, -1 if previous is None else previous.image, train=False), marker]


def pieces_at(pieces: Sequence[Piece], offsets: Sequence[tuple[int, int]]) -> list[Piece]:
    """Returns the piece of each token, given the offsets of the tokens in the joined texts of the pieces."""
    piece_of_character: list[Piece] = []
    for piece in pieces:
        piece_of_character += [piece] * len(piece.text)
    # The last character, which is there even where a tokenizer's offsets leave out a token's spaces.
    return [piece_of_character[max(end - 1, 0)] for _, end in offsets]


def learnt_span(text: Piece | None, piece_of_token: list[Piece]) -> range | None:
    """Returns the tokens of a piece of text; None if they are not learnt."""
    if text is None or not text.train:
        return None
    tokens = [token for token, piece in enumerate(piece_of_token) if piece is text]
    return range(tokens[0], tokens[-1] + 1) if tokens else None


def pieces_of_text(text: str, num_images: int, image_marker: str, name: str) -> list[Piece]:
    """Returns the pieces of a text with markers. Raises ValueError unless it has a marker for each image."""
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
    """Returns the texts, and the images of each, of the forms that transformers' processors take.

    ``images`` is an image or a list for one text, and a list of lists for several texts.

    Raises:
        ValueError: Where there is no text, or where the images are no list for each text.
    """
    if text is None:
        raise ValueError("a text is needed, if only the marker '<image>'")
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
    """Returns all special tokens of a tokenizer, also those without a role."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys(tokenizer.all_special_tokens + list(added)))
