"""The tokens of a document, and the part of them that its window keeps."""

from dataclasses import dataclass

from flamingo.data.document import TokenWindow
from flamingo.data.text_markers import Piece


@dataclass(frozen=True)
class Tokens:
    """Token ids, and the piece of text that each of them belongs to."""

    ids: list[int]
    pieces: list[Piece]
    #: Whether the first id is BOS, which belongs to no piece of the document.
    has_bos: bool

    def within(self, window: TokenWindow | None) -> "Tokens":
        """Returns the tokens in the window; None: all. A window that starts later begins with BOS, too."""
        if window is None:
            return self
        start, stop = window.start, window.start + window.length
        if start == 0 or not self.has_bos:
            return Tokens(self.ids[start:stop], self.pieces[start:stop], self.has_bos and start == 0)
        ids = self.ids[:1] + self.ids[start : stop - 1]
        pieces = self.pieces[:1] + self.pieces[start : stop - 1]
        return Tokens(ids, pieces, has_bos=True)

    def image_starts(self, image_token_id: int) -> dict[int, int]:
        """Returns for each image whose marker is among the tokens the position of its first one, in reading order."""
        starts: dict[int, int] = {}
        for position, (token, piece) in enumerate(zip(self.ids, self.pieces, strict=True)):
            if token == image_token_id:
                starts.setdefault(piece.image, position)
        return starts
