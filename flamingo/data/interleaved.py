"""Captioned images -> interleaved documents, of random images or of neighbours."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from flamingo.data.captions import CaptionedImage
from flamingo.data.document import PROMPT, Document, Part, Text
from flamingo.utils.errors import UserError

#: How many documents end with the same image, each of them with others before it.
_ROUNDS = 1000


@dataclass
class Interleaved(Sequence[Document]):
    """Documents of ``least`` to ``most`` images, each with one of its captions: a pure function of seed and index.

    With probability ``similar`` the images before the last one are those most similar to it, in rising
    order, as in prompts whose demonstrations are retrieved (RICES); otherwise they are any. ``neighbours``
    has for each image the places of others, the most similar first. Every image is shown in one of
    its first ``views`` views, of which the first is the image itself. ``versions`` documents in a row show
    the same, each with other captions, as long as there are others.
    """

    source: Sequence[CaptionedImage]
    seed: int
    least: int
    most: int
    similar: float = 0.0
    neighbours: Int[np.ndarray, "images k"] | None = None
    views: int = 1
    versions: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= len(self.source):
            raise UserError(
                f"documents of least={self.least} to most={self.most} images cannot be made of {len(self.source)}"
            )
        if not 0 <= self.similar <= 1:
            raise UserError(f"similar must lie in [0, 1], got {self.similar}")
        for name in ("views", "versions"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        if self.similar > 0 and (self.neighbours is None or self.neighbours.shape[1] < self.most - 1):
            raise UserError(f"documents of neighbours with up to {self.most} images need {self.most - 1} of each")

    def __len__(self) -> int:
        return len(self.source) * _ROUNDS * self.versions

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} documents, no document {index}")
        shown, version = divmod(index, self.versions)
        rng = random.Random(f"{self.seed} {shown}")
        last = shown % len(self.source)
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
        return Document(parts, id=f"{self.source[last].id} and {number - 1} others, no. {index}")
