"""Entries of a file of questions -> records, with the files of their images.

As for captions, a wrong structure is a UserError that names file, row and value, and so is a missing image file, unless
the location skips it. A question that is empty, or that has no answer where others have some, is left out and counted.
"""

import logging
import reprlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from flamingo.data.readers import Location
from flamingo.data.readers.entries import images_of
from flamingo.data.records.question_record import QuestionRecord, clean
from flamingo.data.records.record import RecordList, by_reason, check_id, split_named
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


class QuestionEntry(NamedTuple):
    """A question in a file, with unchecked answers."""

    #: The file and the line or element, for errors.
    origin: str
    id: str
    #: The image's file, relative to the folder of the images.
    name: str
    question: str
    #: The answers of all people; empty in a test set.
    answers: list[Any]
    #: The field and the value that name the question in a file of results.
    result_id: tuple[str, int | str]
    question_type: str | None = None
    answer_type: str | None = None
    split: Any = None
    #: The files of the images after the first, where the question is about several.
    later_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The files of all images."""
        return (self.name, *self.later_names)


class _ImageName(NamedTuple):
    """An image that a question names. Its name is its id."""

    origin: str
    id: str
    name: str


def check_questions(location: Location, entries: list[QuestionEntry]) -> RecordList:
    """Returns the records of a file's questions.

    Args:
        location: Where the data set lies.
        entries: The entries of its file.

    Raises:
        UserError: If an id occurs twice, an answer is not a text, an image does not exist (unless the location skips
            missing ones), or no question is left.
    """
    file = location.files[0]
    _check_unique(entries)
    if not entries:
        raise UserError(f"{file} has no question")
    has_answers = any(entry.answers for entry in entries)
    if not has_answers:
        log.warning("%s: the questions have no answers, so that outputs are not scored", file)
    names = [_ImageName(entry.origin, name, name) for entry in entries for name in entry.names]
    images = images_of(location, names)
    skipped: dict[str, str] = {}
    records = []
    for entry in entries:
        reason = _fault(entry, has_answers)
        missing = [name for name in entry.names if name not in images]
        if reason is None and missing:
            reason = f"the image file does not exist: {missing[0]}"
        if reason is not None:
            skipped[entry.id] = reason
            continue
        records.append(
            QuestionRecord(
                id=entry.id,
                image=images[entry.name],
                later_images=tuple(images[name] for name in entry.later_names),
                captions=tuple(entry.answers),
                split=_split(entry),
                question=clean(entry.question),
                question_type=entry.question_type,
                answer_type=entry.answer_type,
                result_id=entry.result_id,
            )
        )
    if skipped:
        log.warning("%s: left out %d: %s", file, len(skipped), by_reason(skipped))
    if not records:
        raise UserError(f"{file} has no question that can be used: {by_reason(skipped)}")
    return RecordList(records, skipped)


def _check_unique(entries: Iterable[QuestionEntry]) -> None:
    origins: dict[str, str] = {}
    for entry in entries:
        check_id(entry.id, entry.origin)
        if entry.id in origins:
            raise UserError(f"{entry.origin} repeats the question {entry.id!r} of {origins[entry.id]}")
        origins[entry.id] = entry.origin
        if not all(isinstance(answer, str) for answer in entry.answers):
            raise UserError(f"{entry.origin}: answers must be texts, got {reprlib.repr(entry.answers)}")


def _fault(entry: QuestionEntry, has_answers: bool) -> str | None:
    """Returns the reason why a question cannot be used; None if it can."""
    if not entry.question.strip():
        return "a question is empty"
    if has_answers and not any(answer.strip() for answer in entry.answers):
        return "there is no answer"
    try:
        "".join([entry.question, *entry.answers]).encode()
    except UnicodeEncodeError as error:  # JSON can hold an unpaired surrogate, which tokenizers refuse
        return f"a text has half a character: {error}"
    return None


def _split(entry: QuestionEntry) -> str | None:
    try:
        return split_named(entry.split)
    except UserError as error:
        raise UserError(f"{entry.origin}: {error}") from error


def optional_text(row: dict[str, Any], name: str) -> str | None:
    """Returns a field of a row if it is a text that is not empty."""
    value = row.get(name)
    return value if isinstance(value, str) and value else None
