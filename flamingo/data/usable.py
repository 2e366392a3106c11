"""Finds the images whose captions cannot stand in a document: special tokens in them, or too many tokens."""

import logging

import numpy as np

from flamingo.data.document import PROMPT
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.record import LazySequence, Subset, by_reason
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


def usable(
    source: LazySequence, processor: FlamingoProcessor, images: int, new_tokens: int = 0
) -> tuple[LazySequence, dict[str, str]]:
    """Return the images that any document may hold, and by id why others are left out.

    An image is left out where a caption has a special token; and, the longest first, until ``images`` of those that
    are left fit into one document, whichever they are and whichever of their captions they have. No document that is
    drawn later, in hours perhaps, is then too long.

    Args:
        source: Where the images are from.
        processor: Its tokenizer says which tokens are special, and how many a document may have.
        images: The most images of a document.
        new_tokens: Tokens that are to be generated behind a document.

    Raises:
        UserError: If fewer images are left than a document has.
    """
    lengths = np.zeros(len(source), dtype=np.int64)
    reasons: dict[int, str] = {}
    for place, image in enumerate(source):
        found = [token for caption in image.captions if (token := processor.special_token_in(caption)) is not None]
        if found:
            reasons[place] = f"a caption has a special token: {found[0]}"
        else:
            lengths[place] = max(processor.chunk_length(f"{PROMPT} {caption}") for caption in image.captions)
    room = processor.room - new_tokens
    for place in _too_long(lengths, images, room):
        reasons[place] = (
            f"a caption is too long: documents of {images} images with {lengths[place]} tokens each, as this one has, "
            f"would have more than the {room} that fit"
        )
    skipped = {source[place].id: reason for place, reason in reasons.items()}
    left = len(source) - len(skipped)
    if left < min(images, len(source)):  # of a source with fewer images than a document, all may be left
        why = by_reason(skipped)
        raise UserError(f"{left} of {len(source)} images are left for documents of {images} images: {why}")
    if skipped:
        log.warning("left out %d images: %s", len(skipped), by_reason(skipped))
    return Subset(source, [place for place in range(len(source)) if place not in reasons]), skipped


def _too_long(lengths: np.ndarray, images: int, room: int) -> list[int]:
    """The places to leave out so that any ``images`` of the others have ``room`` tokens at most together."""
    longest_first = np.argsort(-lengths, kind="stable")
    sums = np.concatenate([[0], np.cumsum(lengths[longest_first])])
    ends = np.minimum(np.arange(len(lengths)) + images, len(lengths))
    fits = sums[ends] - sums[:-1] <= room
    left_out = int(fits.argmax()) if fits.any() else len(lengths)
    return longest_first[:left_out].tolist()
