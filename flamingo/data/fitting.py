"""Fits captions into documents: a caption with too many tokens is cut at a sentence, or its image is left out."""

import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.record import LazySequence, Record, Subset, by_reason
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

#: The end of a sentence: marks, and the quotes or brackets after them, before a space. Full-width marks need no space.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡]+[」』”’）]*")  # noqa: RUF001


@dataclass(frozen=True)
class FittedRecords:
    """Records whose captions fit into a document with one image."""

    records: LazySequence
    #: Id -> the reason why another image is left out.
    skipped: dict[str, str]
    #: Id -> the reason why captions of this image are cut or left out.
    shortened: dict[str, str]


def fitting(
    source: LazySequence,
    processor: FlamingoProcessor,
    new_tokens: int = 0,
    too_long: str = "cut",
    template: CaptionTemplate | None = None,
) -> FittedRecords:
    """Returns the images with captions that fit into a document of one image.

    An image with a special token in a caption is left out. A document of several images that is too long loses its
    first images when it is encoded: see :class:`flamingo.data.encode.EncodedDocuments`.

    Args:
        source: The images.
        processor: Its tokenizer determines special tokens, and the number of tokens of a document.
        new_tokens: Tokens that are generated after a document.
        too_long: The action for a caption with too many tokens. ``cut``: cut it after the last sentence that fits, or
            leave it out if none fits. ``skip``: leave out its image.
        template: The template of the captions; None: the processor's.

    Raises:
        UserError: If no image is left.
    """
    filled = (template or processor.template).filled

    def length(caption: str) -> int:
        return processor.chunk_length(filled(caption))

    room = processor.room - new_tokens
    skipped: dict[str, str] = {}
    shortened: dict[str, str] = {}
    kept: list[int] = []
    captions_of: dict[int, tuple[str, ...]] = {}
    for index, record in enumerate(source):
        token = special_token(record, processor)
        if token is not None:
            skipped[record.id] = f"a caption has a special token: {token}"
            continue
        captions, tokens = _fitted(record.captions, length, room, too_long)
        reason = f"{tokens} tokens with its image, of which {room} fit"
        if captions != record.captions:
            if not captions or too_long == "skip":
                skipped[record.id] = f"a caption is too long: {reason}"
                continue
            shortened[record.id] = f"a caption is cut at a sentence: {reason}"
            captions_of[len(kept)] = captions
        kept.append(index)
    if not kept:
        raise UserError(f"0 of {len(source)} images are left: {by_reason(skipped)}")
    for what, reasons in (("left out", skipped), ("shortened the captions of", shortened)):
        if reasons:
            log.warning("%s %d images: %s", what, len(reasons), by_reason(reasons))
    subset = Subset(source, kept)
    return FittedRecords(Recaptioned(subset, captions_of) if captions_of else subset, skipped, shortened)


class Recaptioned(LazySequence):
    """The records of a source, some of them with other captions."""

    def __init__(self, source: LazySequence, captions: Mapping[int, tuple[str, ...]]) -> None:
        """Makes the sequence.

        Args:
            source: The records.
            captions: Index of a record -> its new captions.
        """
        self.source, self.skipped, self.captions = source, source.skipped, captions

    def __len__(self) -> int:
        return len(self.source)

    def item(self, index: int) -> Record:
        """Returns the record at ``index``, which lies in [0, len)."""
        record = self.source[index]
        return replace(record, captions=self.captions.get(index, record.captions))


def cut_at_sentence(caption: str, length: Callable[[str], int], room: int) -> str | None:
    """Returns the sentences at the beginning of a caption that fit; None if the first one does not.

    Args:
        caption: The caption.
        length: Returns the number of tokens of a caption with its image.
        room: The largest number of tokens.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(caption)]
    fitting_ends = bisect_right(ends, room, key=lambda end: length(caption[:end]))
    return caption[: ends[fitting_ends - 1]] if fitting_ends > 0 else None


def _fitted(
    captions: tuple[str, ...], length: Callable[[str], int], room: int, too_long: str
) -> tuple[tuple[str, ...], int]:
    """Returns the captions that fit, some of them cut, and the number of tokens of the longest one with its image."""
    lengths = [length(caption) for caption in captions]
    fitted = []
    for caption, tokens in zip(captions, lengths, strict=True):
        if tokens <= room:
            fitted.append(caption)
        elif too_long == "cut":
            sentences = cut_at_sentence(caption, length, room)
            if sentences is not None:
                fitted.append(sentences)
    return tuple(fitted), max(lengths)


def special_token(record: Record, processor: FlamingoProcessor) -> str | None:
    """Returns the special token of the first text of a record that has one."""
    for text in record.texts:
        token = processor.special_token_in(text)
        if token is not None:
            return token
    return None
