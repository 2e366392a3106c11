"""Captioned images -> interleaved documents, of random images or of neighbours."""

import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from flamingo.data.builders import InterleavedConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document, Part, Text
from flamingo.data.order import index_at
from flamingo.data.records.record import Record
from flamingo.utils.errors import UserError


class Interleaved:
    """An endless data set of documents of several images, each image with one of its captions.

    A document is a pure function of seed and position. In each epoch each image is the last one of one document, in
    the order of :func:`flamingo.data.order.index_at`. The images before it, captions and crops differ between epochs.

    ``captions_per_image`` consecutive documents show the same images. Each has other captions, as long as an image has
    unused ones.
    """

    def __init__(
        self,
        config: InterleavedConfig,
        records: Sequence[Record],
        seed: int | str,
        neighbours: Int[np.ndarray, "images k"] | None = None,
        template: CaptionTemplate | None = None,
    ) -> None:
        """Makes the data set.

        Args:
            config: The number of images of a document, and how they are chosen.
            records: The images.
            seed: The seed of all random draws.
            neighbours: For each image the indices of other images, the most similar first. Documents of neighbours have
                them in increasing order of similarity, as prompts with retrieved demonstrations (RICES).
            template: The text of each image; None: the default template.

        Raises:
            UserError: For too few images, and if neighbours are missing.
        """
        most = config.max_images
        if most > len(records):  # all images of a document are different
            raise UserError(f"max_images is {most}, but there are {len(records)} images")
        if config.similar_prob > 0 and (neighbours is None or neighbours.shape[1] < most - 1):
            raise UserError(f"similar_prob with max_images={most} needs {most - 1} neighbours of each image")
        self.config, self.records, self.seed, self.neighbours = config, records, seed, neighbours
        self.template = template or CaptionTemplate()

    def __getitem__(self, position: int) -> Document:
        config = self.config
        group, version = divmod(position, config.captions_per_image)
        rng = random.Random(f"{self.seed} {group}")
        last = index_at(group, len(self.records), self.seed)
        num_images = rng.randint(config.min_images, config.max_images)
        parts: list[Part] = []
        for index in [*self._before(last, num_images, rng), last]:
            record = self.records[index]
            captions = rng.sample(record.captions, len(record.captions))
            caption = captions[version % len(captions)]
            image = record.image.crop(rng.randrange(config.num_crops))
            parts += [image, Text(self.template.prompt, train=False), Text(self.template.answer(caption))]
        return Document(parts, id=f"{self.records[last].id} and {num_images - 1} others, no. {position}")

    def _before(self, last: int, num_images: int, rng: random.Random) -> list[int]:
        """Returns the images before the last one: its neighbours in increasing similarity, or random images."""
        if rng.random() < self.config.similar_prob:
            assert self.neighbours is not None
            return self.neighbours[last, : num_images - 1][::-1].tolist()
        drawn = rng.sample(range(len(self.records)), num_images)
        others = [index for index in drawn if index != last]
        return others[: num_images - 1]
