"""Collects the problems of several checks, and reports them together."""

from collections.abc import Iterator
from contextlib import contextmanager

from flamingo.utils.errors import UserError


class Problems:
    """The user errors of several checks."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def collected(self, key: str = "") -> Iterator[None]:
        """Keeps a UserError of the block instead of raising it.

        Args:
            key: A key that the sentence begins with, followed by a colon; empty: none.
        """
        try:
            yield
        except UserError as error:
            sentence = f"{key}: {error}" if key else str(error)
            if sentence not in self.sentences:
                self.sentences.append(sentence)

    def report(self) -> None:
        """Raises one UserError with all problems, one a line, if there are any.

        Raises:
            UserError: If a check has failed.
        """
        if len(self.sentences) == 1:
            raise UserError(self.sentences[0])
        if self.sentences:
            lines = "".join(f"\n- {sentence}" for sentence in self.sentences)
            raise UserError(f"{len(self.sentences)} problems:{lines}")
