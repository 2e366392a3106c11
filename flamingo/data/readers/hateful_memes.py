"""HatefulMemes' train.jsonl, dev_seen.jsonl and the like: memes with the text on them, and whether they are hateful."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.question_entries import QuestionEntry, check_questions
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import rows

#: The answers by label.
_ANSWERS = {0: "no", 1: "yes"}


def hateful_memes(location: Location) -> LazySequence:
    """Returns the memes of rows ``{"id": 42953, "img": "img/42953.png", "label": 0, "text": "..."}`` as questions.

    The question is the text on the meme, and the answer ``yes`` or ``no``. A row without a label has no answer.

    Raises:
        UserError: For a malformed row, and as :func:`flamingo.data.readers.question_entries.check_questions`.
    """
    return check_questions(location, _entries(location.files[0]))


def is_hateful_memes(candidate: Candidate) -> bool:
    """Returns whether the first line is a JSON object with an ``img`` and a ``text``."""
    return has_field(candidate.first_row, "img") and has_field(candidate.first_row, "text")


def _entries(file: Path) -> list[QuestionEntry]:
    entries = []
    for origin, row in rows(file):
        id = field_of(row, "id", int | str, origin)
        answers = []
        if "label" in row:
            label = row["label"]
            if not isinstance(label, int) or label not in _ANSWERS:
                raise UserError(f"{origin}: the label must be 0 or 1, got {label!r}")
            answers = [_ANSWERS[label]]
        name = field_of(row, "img", str, origin)
        text = field_of(row, "text", str, origin)
        entries.append(QuestionEntry(origin, str(id), name, text, answers, ("id", id)))
    return entries
