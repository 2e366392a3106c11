"""Images and optional demonstrations -> captions, in one call."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.data.document import PROMPT, Document, Frame, Image, Part, Text
from flamingo.data.processor import FlamingoProcessor
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model.modeling import FlamingoForConditionalGeneration


@dataclass
class Captioner:
    """A trained model, ready to caption: ``Captioner.from_pretrained("outputs/demo/checkpoint")(["one.jpg"])``."""

    model: FlamingoForConditionalGeneration
    processor: FlamingoProcessor
    #: Images captioned at once.
    batch_size: int = 16

    @classmethod
    def from_pretrained(cls, name: str | Path, batch_size: int = 16, **kwargs: Any) -> "Captioner":
        """Returns the captioner of a folder or a hub name; further arguments (``dtype``, ...) are the model's."""
        model = FlamingoForConditionalGeneration.from_pretrained(name, **kwargs).eval()
        return cls(model, FlamingoProcessor.from_pretrained(name), batch_size)

    def __call__(
        self,
        images: Iterable[Frame | Image],
        demonstrations: Sequence[tuple[Frame | Image, str]] = (),
        prompt: str = PROMPT,
        max_new_tokens: int = 30,
        num_beams: int = 3,
    ) -> list[str]:
        """Returns a caption for each image.

        Args:
            images: Paths, opened pictures, or an :class:`Image` of several frames each.
            demonstrations: Images with their captions, shown before each image in this order.
            prompt: The beginning of the text of every image.
            max_new_tokens: The largest number of tokens of a caption.
            num_beams: 1 is greedy decoding.

        Raises:
            UserError: For an image that cannot be read, and for more demonstrations than the language model's context
                holds.
        """
        if isinstance(images, Frame | Image):
            raise TypeError(f"images must be a list, got a single one: {images!r}")
        prefix: list[Part] = []
        for image, caption in demonstrations:
            prefix += [_image(image), Text(f"{prompt} {caption}")]
        prompts = [Document([*prefix, _image(image), Text(prompt)]) for image in images]
        engine = FlamingoEngine(self.model, self.processor, self.batch_size)
        return engine.generate(prompts, max_new_tokens, num_beams)


def _image(image: Frame | Image) -> Image:
    return image if isinstance(image, Image) else Image(image)
