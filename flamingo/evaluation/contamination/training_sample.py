"""TrainingSample: the pictures and texts of a captioned image, a question or a page that a model is trained on."""

import re
from dataclasses import dataclass

from flamingo.data.document import Frame
from flamingo.data.pages.page import Page, PageImage
from flamingo.data.records.question_record import QuestionRecord
from flamingo.data.records.record import Record

#: The end of a sentence or a line.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class TrainingSample:
    """A sample of training data."""

    id: str
    frames: tuple[Frame, ...]
    #: Captions, or the sentences of a page. Questions and answers are not compared: people ask the same about many
    #: images.
    texts: tuple[str, ...]


def training_sample(sample: Record | Page) -> TrainingSample:
    """Returns the pictures and texts of a record or a page."""
    if isinstance(sample, Page):
        return _of_page(sample)
    return TrainingSample(sample.id, tuple(sample.frames), captions_of(sample))


def captions_of(record: Record) -> tuple[str, ...]:
    """Returns the captions that are compared; none of a question."""
    return () if isinstance(record, QuestionRecord) else record.captions


def _of_page(page: Page) -> TrainingSample:
    frames: list[Frame] = []
    for part in (*page.parts, *page.unplaced):
        if isinstance(part, PageImage) and part.image is not None:
            frames += part.image.frames
    sentences: list[str] = []
    for text in page.texts:
        sentences += _SENTENCE_END.split(text)
    return TrainingSample(page.id, tuple(frames), tuple(sentences))
