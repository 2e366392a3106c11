"""Captioned images -> interleaved documents, of random images or of neighbours."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from flamingo.data.document import PROMPT, Document, Part, Text
from flamingo.data.order import index_at
from flamingo.data.record import CaptionedImage
from flamingo.utils.checks import probability, whole
from flamingo.utils.errors import UserError


@dataclass
class Interleaved:
    """An endless data set of documents of ``least`` to ``most`` images, each image with one of its captions.

    A document is a pure function of seed and position. In an epoch each image is the last one of one document, in an
    order of :func:`flamingo.data.order.index_at`; what stands before it, captions and views differ between epochs.

    With probability ``similar`` the images before the last one are those most similar to it, in rising
    order, as in prompts whose demonstrations are retrieved (RICES); otherwise they are any. ``neighbours``
    has for each image the places of others, the most similar first. Every image is shown in one of
    its first ``views`` views, of which the first is the image itself. ``versions`` documents in a row show
    the same, each with other captions, as long as there are others.
    """

    source: Sequence[CaptionedImage]
    seed: int | str
    least: int
    most: int
    similar: float = 0.0
    neighbours: Int[np.ndarray, "images k"] | None = None
    views: int = 1
    versions: int = 1

    def __post_init__(self) -> None:
        whole("least", self.least, least=1)
        whole("most", self.most, self.least)
        if self.most > len(self.source):  # all images of a document are different
            raise UserError(f"most is {self.most}, but there are {len(self.source)} images")
        probability("similar", self.similar)
        whole("views", self.views, least=1)
        whole("versions", self.versions, least=1)
        if self.similar > 0 and (self.neighbours is None or self.neighbours.shape[1] < self.most - 1):
            raise UserError(f"documents of neighbours with up to {self.most} images need {self.most - 1} of each")

    def __getitem__(self, position: int) -> Document:
        shown, version = divmod(position, self.versions)
        rng = random.Random(f"{self.seed} {shown}")
        last = index_at(shown, len(self.source), self.seed)
        number = rng.randint(self.least, self.most)
        if rng.random() < self.similar:
            assert self.neighbours is not None
            before = self.neighbours[last, : number - 1][::-1].tolist()
        else:
            before = [place for place in rng.sample(range(len(self.source)), number) if place != last][: number - 1]
        parts: list[Part] = []
        for place in [*before, last]:
            own = self.source[place]
            caption = rng.sample(own.captions, len(own.captions))[version % len(own.captions)]
            image = own.image.view(rng.randrange(self.views))
            parts += [image, Text(PROMPT, train=False), Text(f" {caption}")]
        return Document(parts, id=f"{self.source[last].id} and {number - 1} others, no. {position}")
