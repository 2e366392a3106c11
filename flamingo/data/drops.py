"""What is left out when pages become documents, counted by reason."""

from collections import Counter
from dataclasses import dataclass, field

#: Reason -> how often. Counts of several documents, groups or workers add up with ``+``. Each reason names what is left
#: out, so that one count holds pages, images and texts.
Drops = Counter[str]

# Pages.
NO_IMAGE = "page without images"
NO_TEXT = "page without text"
TOO_MUCH_TEXT = "page with too much text"
SINGLE_IMAGE = "page with a single image"
MISSING_IMAGE_ON_PAGE = "page with a missing image"
TOO_FEW_IMAGES = "page with too few images"
TOO_FEW_TOKENS = "page with too few tokens"
IMAGES_IN_A_ROW = "page with images in a row"
IMAGES_AT_THE_END = "page that ends in images"
NO_TEXT_AFTER_IMAGES = "page without text after its images"

# Images. A missing one has the reason that its reader gives: see :attr:`flamingo.data.pages.page.PageImage.fault`.
IMAGE_TOO_SMALL = "image too small"
IMAGE_NOT_SIMILAR = "image not similar to a text"
IMAGE_OVER_LIMIT = "image over max_images"

# Texts.
TEXT_WITH_SPECIAL_TOKEN = "text with a special token"
TEXT_ESCAPED = "text with an escaped special token"

# Samples of streamed shards, and documents made of them.
BROKEN_SHARD = "sample of a broken shard"
BROKEN_SAMPLE = "broken sample"
PAIR_WITH_SPECIAL_TOKEN = "pair with a special token"
TOO_MANY_TOKENS = "document with too many tokens"
NOT_ENCODED = "document that cannot be encoded"
NO_ROOM = "document without room in its group"
BROKEN_IMAGE = "document with a broken image"


def counts_text(drops: Drops) -> str:
    """Returns the counts for a log, such as ``image missing (3), page without images (1)``, the largest first."""
    return ", ".join(f"{reason} ({count})" for reason, count in drops.most_common())


@dataclass(frozen=True)
class Dropped:
    """A sample that gives no document."""

    #: The reason, which names the sample: it is a page or a pair.
    reason: str
    #: The images and texts that were left out before the sample was.
    parts: Drops = field(default_factory=Counter)

    @property
    def drops(self) -> Drops:
        """The sample itself and its parts, by reason."""
        return Counter({self.reason: 1}) + self.parts
