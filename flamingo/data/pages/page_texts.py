"""The texts of pages, which are untrusted: what a tokenizer would take for a special token never reaches it."""

from flamingo.data import drops
from flamingo.data.drops import Drops
from flamingo.data.processor import FlamingoProcessor


class PageTexts:
    """Drops or escapes texts with special tokens."""

    def __init__(self, processor: FlamingoProcessor, escape: bool) -> None:
        """Makes the filter.

        Args:
            processor: Knows the special tokens.
            escape: Whether a special token gets a blank after its first character; otherwise its text is dropped.
        """
        self.processor, self.escape = processor, escape

    def usable(self, text: str, left_out: Drops) -> str | None:
        """Returns the text as a document may have it; None: it is dropped.

        Args:
            text: A text of a page.
            left_out: The counts that a dropped or an escaped text is added to.
        """
        if self.processor.special_token_in(text) is None:
            return text
        escaped = self._escaped(text) if self.escape else None
        left_out[drops.TEXT_WITH_SPECIAL_TOKEN if escaped is None else drops.TEXT_ESCAPED] += 1
        return escaped

    def _escaped(self, text: str) -> str | None:
        """Returns the text with a blank in each special token; None if blanks do not help."""
        escaped_tokens: set[str] = set()
        token = self.processor.special_token_in(text)
        while token is not None:
            if token in escaped_tokens:
                return None
            escaped_tokens.add(token)
            text = text.replace(token, f"{token[0]} {token[1:]}")
            token = self.processor.special_token_in(text)
        return text
