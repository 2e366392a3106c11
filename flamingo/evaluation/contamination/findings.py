"""What of an evaluation was found in training data, in memory that the training data do not change."""

from collections import Counter
from dataclasses import dataclass, field

from flamingo.data.document import Frame
from flamingo.evaluation.contamination.caption_overlap import EQUAL, CaptionSearch
from flamingo.evaluation.contamination.fingerprint import Fingerprint
from flamingo.evaluation.contamination.image_overlap import NEAR, SAME_FILE, SAME_PIXELS, ImageSearch

#: The copies of a picture or caption that are kept. All are counted.
MAX_COPIES = 5


@dataclass(frozen=True)
class Copy:
    """A training picture or text that is equal or similar to one of the evaluation."""

    #: The kind of the match.
    kind: str
    #: The bits that differ of two pictures, or the overlap of two captions.
    measure: float
    #: The id of the training sample.
    sample: str
    #: The place of the training picture, or the training text.
    content: str


@dataclass
class Finding:
    """A picture or caption of an evaluation that training data have."""

    #: The id of the query.
    query: str
    #: The place of the picture, or the caption.
    content: str
    #: The first copies.
    copies: list[Copy] = field(default_factory=list)
    #: Kind -> the number of all copies.
    counts: Counter[str] = field(default_factory=Counter)
    #: The picture's place; None for a caption.
    frame: Frame | None = None
    #: The first copy as the data URI of a small picture; None for a caption, or if enough pictures are kept.
    thumbnail: str | None = None

    def add(self, copy: Copy) -> None:
        """Counts a copy, and keeps it if it is among the first."""
        self.counts[copy.kind] += 1
        if len(self.copies) < MAX_COPIES:
            self.copies.append(copy)

    @property
    def kind(self) -> str:
        """The surest kind of its copies."""
        for kind in (SAME_FILE, SAME_PIXELS, EQUAL):
            if self.counts[kind] > 0:
                return kind
        return NEAR


class TaskSearch:
    """The pictures and captions of a task, and the findings among them."""

    def __init__(self, images: ImageSearch, captions: CaptionSearch) -> None:
        """Makes a search without queries.

        Args:
            images: Searches pictures.
            captions: Searches captions.
        """
        self.images, self.captions = images, captions
        #: The id and the frame of each picture.
        self.pictures: list[tuple[str, Frame]] = []
        #: The id and the text of each caption that is searched.
        self.texts: list[tuple[str, str]] = []
        #: Captions with few words, which are not searched.
        self.num_short = 0
        #: Number of a picture, or of a caption -> its copies.
        self.image_findings: dict[int, Finding] = {}
        self.caption_findings: dict[int, Finding] = {}

    def add_picture(self, query: str, frame: Frame, fingerprint: Fingerprint) -> None:
        """Adds a picture of a query."""
        self.images.add(fingerprint)
        self.pictures.append((query, frame))

    def add_caption(self, query: str, caption: str, words: list[str]) -> None:
        """Adds a caption of a query."""
        if self.captions.add(words):
            self.texts.append((query, caption))
        else:
            self.num_short += 1

    def search_picture(self, fingerprint: Fingerprint, sample: str, place: str) -> list[Finding]:
        """Searches the duplicates of a training picture.

        Returns:
            The findings of pictures that were not found before.
        """
        new = []
        for match in self.images.find(fingerprint):
            if match.number not in self.image_findings:
                query, frame = self.pictures[match.number]
                self.image_findings[match.number] = Finding(query, str(frame), frame=frame)
                new.append(self.image_findings[match.number])
            copy = Copy(match.kind, float(match.distance), sample, place)
            self.image_findings[match.number].add(copy)
        return new

    def search_text(self, words: list[str], sample: str, text: str) -> None:
        """Searches the captions that are equal or similar to a training text."""
        for match in self.captions.find(words):
            if match.number not in self.caption_findings:
                query, caption = self.texts[match.number]
                self.caption_findings[match.number] = Finding(query, caption)
            copy = Copy(match.kind, match.overlap, sample, text)
            self.caption_findings[match.number].add(copy)
