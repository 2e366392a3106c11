"""QuestionRecord: an image with a question and its answers."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flamingo.data.records.record import Record


@dataclass(frozen=True)
class QuestionRecord(Record):
    """An image with a question. ``captions`` are the answers of all people, as the file has them.

    ``id`` is the question's. A question of a test set has no answers.
    """

    question: str
    #: The question's type in the data, such as "what color is the"; None if the data have none.
    question_type: str | None
    #: The type of its answers in the data, such as "yes/no"; None if the data have none.
    answer_type: str | None
    #: The field and the value that name the question in a file of results.
    result_id: tuple[str, int | str]

    @property
    def texts(self) -> tuple[str, ...]:
        """The question and all answers."""
        return (self.question, *self.captions)


#: The ways to choose the answer that is shown or trained on, of those that are not empty: the most frequent one, of
#: equally frequent ones the first; or the first one.
ANSWER_CHOICES = ("majority", "first")


def chosen_answer(answers: Sequence[str], choice: str) -> str:
    """Returns one of a question's answers, without spaces around it, and with spaces for line breaks.

    Args:
        answers: The answers, one of which is not empty.
        choice: One of :data:`ANSWER_CHOICES`.
    """
    cleaned = _cleaned(answers)
    if choice == "first":
        return cleaned[0]
    [(answer, _)] = Counter(cleaned).most_common(1)
    return answer


def drawn_answer(answers: Sequence[str], rng: random.Random) -> str:
    """Returns one of the answers that are not empty at random, in the form of :func:`chosen_answer`."""
    return rng.choice(_cleaned(answers))


def _cleaned(answers: Sequence[str]) -> list[str]:
    return [text for text in map(clean, answers) if text]


def clean(text: str) -> str:
    """Returns a text without spaces around it, and with one space for each line break and the spaces around it."""
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())
