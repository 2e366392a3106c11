"""Finds the images whose captions cannot stand in a document: special tokens in them, or too many tokens."""

import logging

import numpy as np
from jaxtyping import Int

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.record import LazySequence, Record, Subset, by_reason
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


def fitting(
    source: LazySequence,
    processor: FlamingoProcessor,
    images: int,
    new_tokens: int = 0,
    template: CaptionTemplate | None = None,
) -> tuple[LazySequence, dict[str, str]]:
    """Returns the images that any document may hold, and by id the reasons why others are left out.

    An image with a special token in a caption is left out. Of the others the longest are left out until any ``images``
    of those that remain, with any of their captions, fit into one document. No document is then too long when it is
    drawn, hours later.

    Args:
        source: The images.
        processor: Its tokenizer determines special tokens, and the number of tokens of a document.
        images: The largest number of images of a document.
        new_tokens: Tokens that are generated after a document.
        template: The template of the captions; None: the processor's.

    Raises:
        UserError: If fewer images are left than a document has.
    """
    room = processor.room - new_tokens
    lengths, reasons = _lengths(source, processor, template or processor.template)
    for index in _too_long(lengths, images, room):
        reasons[index] = (
            f"a caption is too long: documents of {images} images with {lengths[index]} tokens each, as this one has, "
            f"would have more than the {room} that fit"
        )
    skipped = {source[index].id: reason for index, reason in reasons.items()}
    left = len(source) - len(skipped)
    if left < min(images, len(source)):  # of a source with fewer images than a document, all may be left
        why = by_reason(skipped)
        raise UserError(f"{left} of {len(source)} images are left for documents of {images} images: {why}")
    if skipped:
        log.warning("left out %d images: %s", len(skipped), by_reason(skipped))
    return Subset(source, [index for index in range(len(source)) if index not in reasons]), skipped


def _special_token(record: Record, processor: FlamingoProcessor) -> str | None:
    """Returns the special token of the first caption that has one."""
    for caption in record.captions:
        special_token = processor.special_token_in(caption)
        if special_token is not None:
            return special_token
    return None


def _lengths(
    source: LazySequence, processor: FlamingoProcessor, template: CaptionTemplate
) -> tuple[Int[np.ndarray, " n"], dict[int, str]]:
    """Returns the tokens of each image with its longest caption, and by index the images with a special token."""
    lengths = np.zeros(len(source), dtype=np.int64)
    reasons: dict[int, str] = {}
    for index, record in enumerate(source):
        special_token = _special_token(record, processor)
        if special_token is not None:
            reasons[index] = f"a caption has a special token: {special_token}"
        else:
            lengths[index] = max(processor.chunk_length(template.filled(caption)) for caption in record.captions)
    return lengths, reasons


def _too_long(lengths: np.ndarray, images: int, room: int) -> list[int]:
    """Returns the indices to leave out so that any ``images`` of the others have at most ``room`` tokens together."""
    longest_first = np.argsort(-lengths, kind="stable")
    sums = np.concatenate([[0], np.cumsum(lengths[longest_first])])
    ends = np.minimum(np.arange(len(lengths)) + images, len(lengths))
    fits = sums[ends] - sums[:-1] <= room
    left_out = int(fits.argmax()) if fits.any() else len(lengths)
    return longest_first[:left_out].tolist()
