"""Page: a web page or another document with texts and images, as its data set has it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from flamingo.data.document import Image


@dataclass(frozen=True)
class PageImage:
    """An image of a page. ``image`` is None if the data set lacks the picture."""

    #: The image as the page names it: a URL or a file name.
    name: str
    image: Image | None
    #: The size of the picture's file in bytes, where it is known without opening the picture.
    num_bytes: int | None = None
    #: Why there is no picture, as a short kind: "image missing", "path outside the data folder"; empty if there is one.
    fault: str = ""


@dataclass(frozen=True)
class SectionBreak:
    """The end of a section of a page. The texts after it do not continue those before it."""


PagePart = str | PageImage | SectionBreak


@dataclass(frozen=True)
class Page:
    """Texts and images in reading order. ``unplaced`` are images whose place among the texts is not known.

    ``similarity`` has a row for each unplaced image and a column for each text of ``parts`` (MMC4's
    ``similarity_matrix``); None if there are no unplaced images.
    """

    id: str
    parts: tuple[PagePart, ...]
    split: str | None = None
    unplaced: tuple[PageImage, ...] = ()
    similarity: Float[np.ndarray, "images texts"] | None = field(default=None, compare=False)

    @property
    def texts(self) -> Sequence[str]:
        """The texts of the page, in reading order."""
        return [part for part in self.parts if isinstance(part, str)]
