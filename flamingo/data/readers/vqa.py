"""VQAv2 and OK-VQA: a file of questions and a file of annotations. OpenFlamingo's files of TextVQA and VizWiz, too."""

import logging
import re
from pathlib import Path
from typing import Any

from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate, has_field
from flamingo.data.readers.entries import field_of
from flamingo.data.readers.question_entries import QuestionEntry, check_questions, optional_text
from flamingo.data.records.record import LazySequence
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json

log = logging.getLogger(__name__)

#: The part of COCO that has the images, in the file's field or name.
_COCO_PART = re.compile(r"(?:train|val|test)20\d\d")


def vqa(location: Location) -> LazySequence:
    """Returns the questions of a file ``*questions*.json``, with the answers of its annotations.

    The annotations lie in the same folder, in the file whose name has "annotations" for "questions", and no
    "OpenEnded_". A question without an annotation has no answers. A number of an image is COCO's, and its file is
    ``COCO_PART_NUMBER.jpg``: the field ``data_subtype``, or the name of the file of questions, has the part of COCO. A
    text is the image's file, or its file without ``.jpg``.

    Raises:
        UserError: For a malformed file, by its row, and as
            :func:`flamingo.data.readers.question_entries.check_questions`.
    """
    return check_questions(location, _entries(location.files[0]))


def is_vqa(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with a list of ``questions`` that have a ``question_id``."""
    return has_field(candidate.first_element("questions"), "question_id")


def _entries(file: Path) -> list[QuestionEntry]:
    content = read_json(file)
    annotations = _annotations(file)
    part = _coco_part(content, file)
    entries = []
    for number, question in enumerate(field_of(content, "questions", list, file)):
        origin = f"{file}, questions[{number}]"
        id = field_of(question, "question_id", int | str, origin)
        image_id = field_of(question, "image_id", int | str, origin)
        answers, question_type, answer_type = annotations.get(id, ([], None, None))
        entries.append(
            QuestionEntry(
                origin,
                str(id),
                _image_name(image_id, part, origin),
                field_of(question, "question", str, origin),
                answers,
                ("question_id", id),
                question_type,
                answer_type,
            )
        )
    return entries


#: The answers, the type of the question and the type of the answer.
_Annotation = tuple[list[str], str | None, str | None]


def _annotations(questions: Path) -> dict[int | str, _Annotation]:
    """Returns the annotations by the ids of their questions; none if their file does not exist.

    Raises:
        UserError: For a malformed file, by its row.
    """
    name = questions.name.replace("questions", "annotations").replace("OpenEnded_", "")
    file = questions.with_name(name)
    if file == questions or not file.exists():
        log.warning("%s: there are no annotations: %s does not exist", questions, file)
        return {}
    annotations: dict[int | str, _Annotation] = {}
    for number, annotation in enumerate(field_of(read_json(file), "annotations", list, file)):
        origin = f"{file}, annotations[{number}]"
        id = field_of(annotation, "question_id", int | str, origin)
        if id in annotations:
            raise UserError(f"{origin} repeats the question {id!r}")
        answers = []
        for answer in field_of(annotation, "answers", list, origin):
            answers.append(field_of(answer, "answer", str, origin))
        annotations[id] = answers, optional_text(annotation, "question_type"), optional_text(annotation, "answer_type")
    return annotations


def _coco_part(content: Any, file: Path) -> str | None:
    subtype = content.get("data_subtype") if isinstance(content, dict) else None
    match = _COCO_PART.search(f"{subtype} {file.name}")
    return None if match is None else match[0]


def _image_name(image_id: int | str, part: str | None, origin: str) -> str:
    if isinstance(image_id, str):
        return image_id if Path(image_id).suffix else f"{image_id}.jpg"
    if part is None:
        raise UserError(
            f"{origin} names an image by COCO's number {image_id}, but neither data_subtype nor the file's name has "
            "the part of COCO, such as val2014"
        )
    return f"COCO_{part}_{image_id:012}.jpg"
