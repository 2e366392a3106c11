"""VisDial 1.0: dialogues of ten questions about an image, with a hundred candidates for each answer."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from flamingo.data.document import Image
from flamingo.data.readers import Location
from flamingo.data.readers.candidate import Candidate
from flamingo.data.readers.entries import field_of, images_of
from flamingo.data.records.dialogue_record import DialogueRecord
from flamingo.data.records.question_record import clean
from flamingo.data.records.record import LazySequence, Record, RecordList, by_reason
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_json

log = logging.getLogger(__name__)

#: The part of the data, in the file's name.
_PART = re.compile(r"visdial_[\d.]+_(train|val|test)")
#: The patterns of the names of a part's images, of which each image has one.
_IMAGE_NAMES = {
    "train": ("COCO_train2014_{:012}.jpg", "COCO_val2014_{:012}.jpg"),
    "val": ("VisualDialog_val2018_{:012}.jpg",),
    "test": ("VisualDialog_test2018_{:012}.jpg",),
}

#: The number of an image and the round, from 1 on -> the relevance of each candidate.
_Relevances = dict[tuple[int, int], tuple[float, ...]]


class _Dialogue(NamedTuple):
    """A dialogue in the file, and its image's file."""

    origin: str
    #: The number of the image.
    number: int
    name: str
    caption: str
    rounds: list[Any]

    @property
    def id(self) -> str:
        return str(self.number)


def visdial(location: Location) -> LazySequence:
    """Returns a question for each round of the dialogues of ``visdial_1.0_*.json``, with its candidates.

    Questions end with a question mark, which most have not in the file. Images are found by their number: those of the
    training part are COCO's of 2014, the others are VisDial's own. The dense annotations, if there are any, lie in the
    same folder in ``visdial_1.0_*_dense_annotations.json``.

    Raises:
        UserError: For a malformed file, by its dialogue and round; and if an image does not exist, unless the location
            skips missing ones.
    """
    file = location.files[0]
    content = field_of(read_json(file), "data", dict, file)
    texts = _Texts(field_of(content, "questions", list, file), field_of(content, "answers", list, file))
    relevances = _relevances(file)
    dialogues = _dialogues(content, file)
    images = _images(location, dialogues)
    missing: dict[str, str] = {}
    records: list[Record] = []
    for dialogue in dialogues:
        if dialogue.id in images:
            records += _rounds(dialogue, images[dialogue.id], texts, relevances)
        else:
            missing[dialogue.id] = f"the image file does not exist: {dialogue.name}"
    if missing:
        log.warning("%s: left out %d: %s", file, len(missing), by_reason(missing))
    if not records:
        raise UserError(f"{file} has no dialogue with an image: {by_reason(missing)}")
    return RecordList(records, missing)


def is_visdial(candidate: Candidate) -> bool:
    """Returns whether the file is JSON with ``data`` that has ``dialogs``."""
    content = candidate.json
    data = content.get("data") if isinstance(content, dict) else None
    return isinstance(data, dict) and "dialogs" in data


@dataclass(frozen=True)
class _Texts:
    """All questions and all answers of a file."""

    questions: Sequence[Any]
    answers: Sequence[Any]

    def question(self, position: Any, origin: str) -> str:
        """Returns a question with its question mark."""
        text = clean(_at(self.questions, position, f"{origin}, question"))
        return text if text.endswith("?") else f"{text}?"

    def answer(self, position: Any, origin: str) -> str:
        """Returns an answer."""
        return clean(_at(self.answers, position, origin))


def _at(texts: Sequence[Any], position: Any, origin: str) -> str:
    if not isinstance(position, int) or not 0 <= position < len(texts):
        raise UserError(f"{origin} must be a position of {len(texts)} texts, got {position!r}")
    text = texts[position]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{origin}: the text at {position} must be a text that is not empty, got {text!r}")
    return text


def _dialogues(content: dict[str, Any], file: Path) -> list[_Dialogue]:
    part = _part(file)
    dialogues = []
    seen = set()
    for position, dialogue in enumerate(field_of(content, "dialogs", list, file)):
        origin = f"{file}, dialogs[{position}]"
        number = field_of(dialogue, "image_id", int, origin)
        if number in seen:
            raise UserError(f"{origin} repeats the image {number}")
        seen.add(number)
        name = _IMAGE_NAMES[part][0].format(number)
        caption = clean(field_of(dialogue, "caption", str, origin))
        dialogues.append(_Dialogue(origin, number, name, caption, field_of(dialogue, "dialog", list, origin)))
    if not dialogues:
        raise UserError(f"{file} has no dialogue")
    return dialogues


def _part(file: Path) -> str:
    match = _PART.search(file.name)
    if match is None:
        raise UserError(
            f"{file} must be named visdial_1.0_train.json, ..._val.json or ..._test.json, as its images are"
        )
    return match[1]


def _images(location: Location, dialogues: Sequence[_Dialogue]) -> dict[str, Image]:
    """Returns by id the images that exist; all of them, unless the location skips those that do not."""
    *others, last = _IMAGE_NAMES[_part(location.files[0])]
    images: dict[str, Image] = {}
    for pattern in others:
        named = [one._replace(name=pattern.format(one.number)) for one in dialogues]
        try:
            images |= images_of(replace(location, skips_missing=True), named)
        except UserError:  # no folder has one of them
            continue
    rest = [one._replace(name=last.format(one.number)) for one in dialogues if one.id not in images]
    return images | images_of(location, rest) if rest else images


def _rounds(dialogue: _Dialogue, image: Image, texts: _Texts, relevances: _Relevances) -> list[DialogueRecord]:
    records: list[DialogueRecord] = []
    history: list[tuple[str, str]] = []
    for number, turn in enumerate(dialogue.rounds, start=1):
        origin = f"{dialogue.origin}, round {number}"
        question = texts.question(field_of(turn, "question", int, origin), origin)
        is_last = number == len(dialogue.rounds)
        answers: tuple[str, ...] = ()
        if "answer" in turn or not is_last:  # the last round of a test set has none
            answers = (texts.answer(field_of(turn, "answer", int, origin), f"{origin}, answer"),)
        options = _options(turn, texts, origin)
        relevance = relevances.get((dialogue.number, number))
        if relevance is not None and len(relevance) != len(options):
            raise UserError(f"{origin} has {len(options)} answer_options, and {len(relevance)} are annotated")
        records.append(
            DialogueRecord(
                id=f"{dialogue.number}/{number}",
                image=image,
                captions=answers,
                split=None,
                question=question,
                question_type=None,
                answer_type=None,
                result_id=("image_id", dialogue.number),
                caption=dialogue.caption,
                history=tuple(history),
                is_last=is_last,
                answers=texts.answers,
                option_positions=options,
                relevance=relevance,
            )
        )
        if answers:
            history.append((question, answers[0]))
    return records


def _options(turn: dict[str, Any], texts: _Texts, origin: str) -> list[int]:
    """Returns the positions of the candidates; none for a round of a test set that is not asked."""
    if "answer_options" not in turn:
        return []
    options = field_of(turn, "answer_options", list, origin)
    for position in options:
        _at(texts.answers, position, f"{origin}, answer_options")
    return options


def _relevances(file: Path) -> _Relevances:
    """Returns the dense annotations; none if their file does not exist.

    Raises:
        UserError: If the file is malformed, by its element.
    """
    annotations_file = file.with_name(f"{file.stem}_dense_annotations.json")
    if not annotations_file.exists():
        log.info("%s: there are no dense annotations: %s does not exist", file, annotations_file)
        return {}
    content = read_json(annotations_file)
    if not isinstance(content, list):
        raise UserError(f"{annotations_file} must be a list of annotated rounds")
    relevances: _Relevances = {}
    for position, annotation in enumerate(content):
        origin = f"{annotations_file}[{position}]"
        identity = field_of(annotation, "image_id", int, origin), field_of(annotation, "round_id", int, origin)
        # The training part has another name for it.
        name = "relevance" if "relevance" in annotation else "gt_relevance"
        relevances[identity] = _numbers(field_of(annotation, name, list, origin), origin)
    return relevances


def _numbers(values: Sequence[Any], origin: str) -> tuple[float, ...]:
    if not all(isinstance(value, int | float) and value >= 0 for value in values):
        raise UserError(f"{origin}: relevances must be numbers of at least 0, got {values!r:.80}")
    return tuple(map(float, values))
