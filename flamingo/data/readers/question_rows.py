"""A file of JSON lines with one question per line."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.question_entries import QuestionEntry, check_questions, optional_text
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import rows

_FIELDS = {"image", "question", "answers", "answer", "id", "question_type", "answer_type", "split"}


def question_rows(location: Location) -> LazySequence:
    """Returns the questions of rows ``{"image": NAME, "question": "...", "answers": [...]}``.

    ``"answer": "..."`` is a single answer. A row without either has no answer. Rows may also have ``"id"``, by default
    the number of the row from 1 on, ``"question_type"``, ``"answer_type"`` and ``"split"``.

    Raises:
        UserError: For a malformed row, and as :func:`flamingo.data.readers.question_entries.check_questions`.
    """
    return check_questions(location, _entries(location.files[0]))


def is_question_rows(candidate: Candidate) -> bool:
    """Returns whether the first line is a JSON object that has an ``image`` and a ``question``."""
    return has_field(candidate.first_row, "image") and has_field(candidate.first_row, "question")


def _entries(file: Path) -> list[QuestionEntry]:
    entries = []
    for number, (origin, row) in enumerate(rows(file), start=1):
        unknown = row.keys() - _FIELDS
        if unknown:
            raise UserError(f"{origin} has the unknown field {min(unknown)!r}; known are {', '.join(sorted(_FIELDS))}")
        if "answers" in row and "answer" in row:
            raise UserError(f"{origin} must have answers or answer; it has both")
        answers: list[str] = []
        if "answers" in row:
            answers = field_of(row, "answers", list, origin)
        elif "answer" in row:
            answers = [field_of(row, "answer", str, origin)]
        id = field_of(row, "id", int | str, origin) if "id" in row else number
        entries.append(
            QuestionEntry(
                origin,
                str(id),
                field_of(row, "image", str, origin),
                field_of(row, "question", str, origin),
                answers,
                ("question_id", id),
                optional_text(row, "question_type"),
                optional_text(row, "answer_type"),
                row.get("split"),
            )
        )
    return entries
