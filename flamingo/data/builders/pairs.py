"""Captioned images of streamed shards -> documents of one image each."""

import random

from flamingo.data.builders import PairsConfig
from flamingo.data.document import Document, Part, Text
from flamingo.data.drops import PAIR_WITH_SPECIAL_TOKEN, Dropped
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.records.record import Record


class Pairs:
    """Makes the document of a captioned image: the image, and one of its captions by the template of captions."""

    def __init__(self, config: PairsConfig, processor: FlamingoProcessor, seed: int | str) -> None:
        """Makes the builder.

        Args:
            config: The config, which has no keys of its own.
            processor: Its template is the text of the caption, and it knows special tokens.
            seed: The seed of the choice among captions.
        """
        self.processor, self.seed = processor, seed

    def document(self, sample: Record, position: int) -> Document | Dropped:
        """Returns the document of a captioned image; a pure function of the seed and the position.

        Args:
            sample: The captioned image.
            position: The position of the image in the order of draws, over all epochs.
        """
        caption = random.Random(f"{self.seed} {position}").choice(sample.captions)
        if self.processor.special_token_in(caption) is not None:
            return Dropped(PAIR_WITH_SPECIAL_TOKEN)
        template = self.processor.template
        parts: list[Part] = [sample.image, Text(template.prompt, train=False), Text(template.answer(caption))]
        return Document(parts, id=sample.id)
