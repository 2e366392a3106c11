"""NLVR2's train.json, dev.json and the like: statements about two photographs, and whether they are true."""

from pathlib import Path

from flamingo.data.readers import Location
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.question_entries import QuestionEntry, check_questions
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import rows

#: The answers of labels, whose first letters are capitals in the files.
ANSWERS = ("true", "false")


def nlvr2(location: Location) -> LazySequence:
    """Returns the statements of JSON lines ``{"identifier": "dev-850-0-0", "sentence": "...", "label": "True"}``.

    The question is the statement, and the answer ``true`` or ``false``. A row without a label has no answer. The
    identifier is SPLIT-SET-PAIR-SENTENCE, and its images are ``SPLIT-SET-PAIR-img0.png`` and ``...-img1.png``.

    Raises:
        UserError: For a malformed row, and as :func:`flamingo.data.readers.question_entries.check_questions`.
    """
    return check_questions(location, _entries(location.files[0]))


def sentence_of(identifier: str) -> str:
    """Returns the name of the sentence of a statement: its identifier without the pair of images."""
    split, set_of_images, _, sentence = identifier.rsplit("-", 3)
    return f"{split}-{set_of_images}-{sentence}"


def _entries(file: Path) -> list[QuestionEntry]:
    entries = []
    for origin, row in rows(file):
        identifier = field_of(row, "identifier", str, origin)
        if identifier.count("-") < 3:
            raise UserError(f"{origin}: the identifier must be SPLIT-SET-PAIR-SENTENCE, got {identifier!r}")
        answers = []
        if "label" in row:
            label = str(row["label"]).lower()
            if label not in ANSWERS:
                raise UserError(f"{origin}: the label must be True or False, got {row['label']!r}")
            answers = [label]
        pair = identifier.rpartition("-")[0]
        sentence = field_of(row, "sentence", str, origin)
        result_id = ("identifier", identifier)
        left, right = f"{pair}-img0.png", f"{pair}-img1.png"
        entries.append(QuestionEntry(origin, identifier, left, sentence, answers, result_id, later_names=(right,)))
    return entries
