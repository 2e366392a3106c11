"""TextVQA's TextVQA_0.5.1_train.json, _val.json and _test.json."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.question_entries import QuestionEntry, check_questions
from flamingo.data.records.record import LazySequence
from flamingo.utils.reading import read_json


def textvqa(location: Location) -> LazySequence:
    """Returns the questions of TextVQA's file. Their split is its ``set_name``; the test set has no answers.

    Raises:
        UserError: For a malformed file, by its row, and as
            :func:`flamingo.data.readers.question_entries.check_questions`.
    """
    return check_questions(location, _entries(location.files[0]))


def is_textvqa(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``data`` that have a ``question``."""
    return has_field(candidate.first_element("data"), "question")


def _entries(file: Path) -> list[QuestionEntry]:
    entries = []
    for number, row in enumerate(field_of(read_json(file), "data", list, file)):
        origin = f"{file}, data[{number}]"
        id = field_of(row, "question_id", int | str, origin)
        answers = field_of(row, "answers", list, origin) if "answers" in row else []
        entries.append(
            QuestionEntry(
                origin,
                str(id),
                f"{field_of(row, 'image_id', str, origin)}.jpg",
                field_of(row, "question", str, origin),
                answers,
                ("question_id", id),
                split=row.get("set_name"),
            )
        )
    return entries
