"""DialogueRecord: a question of a dialogue about an image, with what was said before it and its candidate answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flamingo.data.records.question_record import QuestionRecord


@dataclass(frozen=True)
class DialogueRecord(QuestionRecord):
    """A round of a dialogue. ``captions`` is its answer; a round of a test set may have none.

    A record has references to the answers of the whole data set: a training set has a hundred million candidates.
    """

    #: The caption of the image, which begins the dialogue.
    caption: str
    #: The question and the answer of each earlier round.
    history: tuple[tuple[str, str], ...]
    #: Whether this is the last round of the dialogue.
    is_last: bool
    #: All answers of the data set.
    answers: Sequence[str] = field(repr=False, compare=False)
    #: The positions of the candidates among all answers.
    option_positions: Sequence[int] = field(repr=False)
    #: The share of people who found each candidate right; None: nobody was asked about this round.
    relevance: tuple[float, ...] | None

    @property
    def options(self) -> tuple[str, ...]:
        """The candidates for the answer."""
        return tuple(self.answers[position] for position in self.option_positions)

    @property
    def texts(self) -> tuple[str, ...]:
        """The question with the dialogue before it, the answer, and all candidates."""
        turns = [text for turn in self.history for text in turn]
        return (self.caption, *turns, self.question, *self.captions, *self.options)
