"""Documents -> the pieces of text that are tokenized."""

from collections.abc import Sequence
from dataclasses import dataclass

from flamingo.data.document import Chunk, Document, Image
from flamingo.data.text_markers import Piece, marker_pieces
from flamingo.utils.errors import UserError


def special_token_in(text: str, special_tokens: Sequence[str]) -> str | None:
    """Returns the first of the special tokens that the text contains; None if there is none."""
    return next((token for token in special_tokens if token in text), None)


@dataclass(frozen=True)
class Rendering:
    """A document as pieces of text, its images in their order, and its last text, if any."""

    pieces: list[Piece]
    images: list[Image]
    last_text: Piece | None


@dataclass(frozen=True)
class Renderer:
    """Writes documents as ``<image>text<|endofchunk|> ... EOS``."""

    image_marker: str
    end_of_chunk: str
    #: The text after a document that is no prompt; empty: none.
    end_of_document: str
    #: Tokens that no text may contain.
    special_tokens: Sequence[str]
    #: Tokens that were added to the tokenizer.
    new_tokens: Sequence[str]

    def render(self, document: Document, prompt: bool, next_image: bool, leading_space: bool) -> Rendering:
        """Returns the pieces of a document.

        Args:
            document: The document.
            prompt: Whether the last chunk stays open.
            next_image: Whether texts belong to the image after them.
            leading_space: Whether the text of each chunk begins with a space.

        Raises:
            UserError: For a text with a special token.
        """
        images: list[Image] = []
        pieces: list[Piece] = []
        texts: list[Piece] = []
        chunks = document.chunks(next_image)
        affixes = document.affixes
        end_of_chunk = self.end_of_chunk
        if affixes.end_of_chunk is not None:
            end_of_chunk = affixes.end_of_chunk
            self._check_affix(document, end_of_chunk)
        self._add_affix(document, pieces, affixes.prefix)
        joined = False
        for chunk in chunks:
            if chunk.image is not None:
                if not joined:
                    self._add_affix(document, pieces, affixes.before_image)
                pieces += marker_pieces(self.image_marker, pieces[-1] if pieces else None, len(images))
                images.append(chunk.image)
            image = -1 if chunk.image is None else len(images) - 1
            texts = self._text_pieces(document, chunk, image, leading_space)
            pieces += texts
            joined = chunk.joined
            if joined:
                continue
            if not prompt or chunk is not chunks[-1]:
                train = bool(chunk.texts) and chunk.texts[-1].train
                pieces.append(Piece(end_of_chunk, image, train))
            if chunk is not chunks[-1]:
                self._add_affix(document, pieces, affixes.separator)
        if not prompt and self.end_of_document:
            pieces.append(Piece(self.end_of_document, pieces[-1].image, pieces[-1].train))
        return Rendering(pieces, images, texts[-1] if texts else None)

    def _add_affix(self, document: Document, pieces: list[Piece], text: str) -> None:
        """Appends a text between chunks, whose tokens see the image before it.

        Raises:
            UserError: For a text with a special token.
        """
        self._check_affix(document, text)
        if text:
            pieces.append(Piece(text, pieces[-1].image if pieces else -1, train=False))

    def _check_affix(self, document: Document, text: str) -> None:
        special_token = special_token_in(text, self.special_tokens)
        # IDEFICS ends chunks with a line break, which is text elsewhere.
        is_text = special_token == self.end_of_chunk and special_token not in self.new_tokens
        if special_token is not None and not is_text:
            raise UserError(f"{document} has the special token {special_token} in the text {text!r} between its chunks")

    def _text_pieces(self, document: Document, chunk: Chunk, image: int, leading_space: bool) -> list[Piece]:
        pieces = []
        for number, text in enumerate(chunk.texts):
            special_token = special_token_in(text.text, self.special_tokens)
            if special_token is not None:
                raise UserError(f"{document} has the special token {special_token} in its text")
            needs_space = leading_space and number == 0 and not text.text.startswith(" ")
            pieces.append(Piece(f" {text.text}" if needs_space else text.text, image, text.train))
        return pieces
