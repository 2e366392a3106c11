"""VizWiz's questions: train.json, val.json and test.json."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.question_entries import QuestionEntry, check_questions, optional_text
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json


def vizwiz(location: Location) -> LazySequence:
    """Returns the questions of VizWiz's file. Their ids are the names of their images; the test set has no answers.

    Raises:
        UserError: For a malformed file, by its row, and as
            :func:`flamingo.data.readers.question_entries.check_questions`.
    """
    return check_questions(location, _entries(location.files[0]))


def is_vizwiz(candidate: Candidate) -> bool:
    """Returns whether the file is a JSON list whose first element has an ``image`` and a ``question``."""
    content = candidate.json
    first = content[0] if isinstance(content, list) and content else None
    return has_field(first, "image") and has_field(first, "question")


def _entries(file: Path) -> list[QuestionEntry]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise UserError(f"{file} must be a list of questions")
    entries = []
    for number, row in enumerate(rows):
        origin = f"{file}[{number}]"
        name = field_of(row, "image", str, origin)
        answers = []
        if "answers" in row:
            for answer in field_of(row, "answers", list, origin):
                answers.append(field_of(answer, "answer", str, origin))
        question = field_of(row, "question", str, origin)
        answer_type = optional_text(row, "answer_type")
        entries.append(QuestionEntry(origin, name, name, question, answers, ("image", name), None, answer_type))
    return entries
