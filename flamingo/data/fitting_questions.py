"""Fits questions into documents: a question that is too long with its longest answer is left out."""

import logging

from flamingo.data.fitting import FittedRecords, special_token
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import QuestionRecord
from flamingo.data.records.record import LazySequence, Subset, by_reason
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


def fitting_questions(
    source: LazySequence, processor: FlamingoProcessor, template: QuestionTemplate, new_tokens: int = 0
) -> FittedRecords:
    """Returns the questions that fit, with any of their answers, into a document of one question.

    A question with a special token, in it or in an answer, is left out, and so is one without answers.

    Args:
        source: The questions.
        processor: Its tokenizer determines special tokens, and the number of tokens of a document.
        template: The template of the questions.
        new_tokens: Tokens that are generated after a document.

    Raises:
        UserError: If no question is left.
    """
    room = processor.room - new_tokens
    skipped: dict[str, str] = {}
    kept: list[int] = []
    for index, record in enumerate(source):
        assert isinstance(record, QuestionRecord)
        token = special_token(record, processor)
        if token is not None:
            skipped[record.id] = f"a question or an answer has a special token: {token}"
            continue
        if not record.captions:
            skipped[record.id] = "there is no answer"
            continue
        longest = max(record.captions, key=len)
        tokens = processor.chunk_length(template.filled(record.question, longest), len(record.images))
        if tokens > room:
            skipped[record.id] = f"a question is too long: {tokens} tokens with its image, of which {room} fit"
            continue
        kept.append(index)
    if not kept:
        raise UserError(f"0 of {len(source)} questions are left: {by_reason(skipped)}")
    if skipped:
        log.warning("left out %d questions: %s", len(skipped), by_reason(skipped))
    return FittedRecords(Subset(source, kept), skipped, {})
