"""Record: an image with its captions, and the lazy sequences that sources are."""

import re
import reprlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, overload

import numpy as np

from flamingo.data.document import Frame, Image
from flamingo.utils.errors import UserError


@dataclass(frozen=True)
class Record:
    """An image with all its captions, in the source's order. No caption is empty. Images of a test set have none.

    ``id`` is the source's own, unique within the source or within its split. ``split`` is None if the source names
    none. ``group`` names the images that have scores of their own, such as NoCaps's domains; None: no group.
    ``image_id`` names the image in a file of results, as COCO's server reads it; None: no server reads one.
    ``later_images`` follow the image where the texts are about several.
    """

    id: str
    image: Image
    captions: tuple[str, ...]
    split: str | None
    group: str | None = field(default=None, kw_only=True)
    image_id: int | str | None = field(default=None, kw_only=True)
    later_images: tuple[Image, ...] = field(default=(), kw_only=True)

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in their order."""
        return (self.image, *self.later_images)

    @property
    def frames(self) -> list[Frame]:
        """The frames of all images."""
        return [frame for image in self.images for frame in image.frames]

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the record."""
        return self.captions


class LazySequence(Sequence[Record]):
    """A sequence whose records are made when they are asked for."""

    #: Id -> the reason why an image was left out, and file -> the reason why a part of the file was.
    skipped: dict[str, str]

    @abstractmethod
    def item(self, index: int) -> Record:
        """Returns the record at ``index``, which lies in [0, len)."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Record | list[Record]:
        selected = range(len(self))[index]
        if isinstance(selected, int):
            return self.item(selected)
        return [self.item(one) for one in selected]


class RecordList(LazySequence):
    """A sequence of records in memory."""

    def __init__(self, records: Sequence[Record], skipped: dict[str, str]) -> None:
        self.records, self.skipped = records, skipped

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int) -> Record:
        """Returns the record at ``index``, which lies in [0, len)."""
        return self.records[index]


class Subset(LazySequence):
    """Some records of a source, by their indices."""

    def __init__(self, source: LazySequence, indices: Sequence[int]) -> None:
        self.source, self.skipped = source, source.skipped
        self._indices = np.array(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def item(self, index: int) -> Record:
        """Returns the record at ``index``, which lies in [0, len)."""
        return self.source[int(self._indices[index])]


def captions_of(value: Any) -> tuple[str, ...]:
    """Returns one caption, or a list of captions, as a tuple. Spaces around a caption are removed.

    Line breaks in a caption, with the spaces around them, become one space.

    Raises:
        UserError: If there is no caption, or one is empty, half a character, or not a text. The message begins with the
            kind of the fault, up to a colon; see :func:`by_reason`.
    """
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"captions must be texts: got {reprlib.repr(value)}")
    if not captions:
        raise UserError("there is no caption")
    if not all(caption.strip() for caption in captions):
        raise UserError(f"a caption is empty: {reprlib.repr(value)}")
    try:
        "".join(captions).encode()
    except UnicodeEncodeError as error:  # JSON can hold an unpaired surrogate, which tokenizers refuse
        raise UserError(f"a caption has half a character: {error}") from error
    return tuple(re.sub(r"\s*[\r\n]\s*", " ", caption.strip()) for caption in captions)


def split_named(value: Any) -> str | None:
    """Returns a split as a record names it; None for null and for an empty text.

    Raises:
        UserError: If it is not a text.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UserError(f"a split must be a text: got {reprlib.repr(value)}")
    return value


def check_id(id: str, origin: str) -> None:
    """Checks that an id can be written into a file of results.

    Raises:
        UserError: For an id with an unpaired surrogate; the error begins with ``origin``.
    """
    try:
        id.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{origin}: the id {id!r} is not valid Unicode") from error


def by_reason(skipped: Mapping[str, str]) -> str:
    """Returns a log text: the number of images that were left out for each kind of reason, and an example of each.

    A kind is the text before the first colon of a reason.

    Args:
        skipped: Id -> the reason.
    """
    kinds = {id: reason.partition(": ")[0] for id, reason in skipped.items()}
    examples: dict[str, str] = {}
    for id, kind in kinds.items():
        examples.setdefault(kind, id)
    counts = Counter(kinds.values()).most_common()
    return "; ".join(f"{kind} ({count}, the first {examples[kind]})" for kind, count in counts)
