"""Collects the problems of several checks, and reports them together."""

from collections.abc import Iterator
from contextlib import contextmanager

from flamingo.utils.errors import UserError


class SeveralProblemsError(UserError):
    """Several problems, which were found together."""

    def __init__(self, sentences: list[str]) -> None:
        lines = "".join(f"\n- {sentence}" for sentence in sentences)
        super().__init__(f"{len(sentences)} problems:{lines}")
        self.sentences = sentences


class Problems:
    """The user errors of several checks."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    @contextmanager
    def collected(self, key: str = "") -> Iterator[None]:
        """Keeps a UserError of the block instead of raising it. The problems of several checks are kept one by one.

        Args:
            key: A key that the sentence begins with, followed by a colon; empty: none.
        """
        try:
            yield
        except UserError as error:
            sentences = error.sentences if isinstance(error, SeveralProblemsError) else [str(error)]
            for sentence in sentences:
                named = f"{key}: {sentence}" if key else sentence
                if named not in self.sentences:
                    self.sentences.append(named)

    def report(self) -> None:
        """Raises one UserError with all problems, one a line, if there are any.

        Raises:
            UserError: If a check has failed.
            SeveralProblemsError: If several have.
        """
        if len(self.sentences) == 1:
            raise UserError(self.sentences[0])
        if self.sentences:
            raise SeveralProblemsError(self.sentences)
