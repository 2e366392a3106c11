"""Images and optional demonstrations -> captions, in one call."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Document, Frame, Image, Part, Text
from flamingo.data.processor import FlamingoProcessor
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.inference.visual_token_cache import image_key
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.sampling import Sampling


@dataclass
class Captioner:
    """A trained model, ready to caption: ``Captioner.from_pretrained("outputs/demo/checkpoint")(["one.jpg"])``."""

    model: FlamingoForConditionalGeneration
    processor: FlamingoProcessor
    #: The number of images that are captioned at once.
    batch_size: int = 16

    @classmethod
    def from_pretrained(cls, name: str | Path, batch_size: int = 16, **kwargs: Any) -> "Captioner":
        """Returns the captioner of a folder or a hub name.

        Args:
            name: The folder or the name on the hub.
            batch_size: The number of images that are captioned at once.
            **kwargs: Arguments of the model's ``from_pretrained`` (``dtype``, ...).
        """
        model = FlamingoForConditionalGeneration.from_pretrained(name, **kwargs).eval()
        return cls(model, FlamingoProcessor.from_pretrained(name), batch_size)

    def __call__(
        self,
        images: Iterable[Frame | Image],
        demonstrations: Sequence[tuple[Frame | Image, str]] = (),
        template: str | None = None,
        max_new_tokens: int = 30,
        num_beams: int = 3,
        min_new_tokens: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Returns a caption for each image.

        Args:
            images: Paths, opened pictures, or an :class:`Image` of several frames each.
            demonstrations: Images with their captions, shown before each image in this order.
            template: The text after each image, which ends with ``{caption}``; None: the checkpoint's.
            max_new_tokens: The largest number of tokens of a caption.
            num_beams: The number of beams; 1: greedy decoding. Sampling has one beam whatever the value.
            min_new_tokens: The smallest number of tokens of a caption.
            temperature: The temperature of sampled tokens; None: search for the most likely caption.
            top_p: The total probability of the tokens that may be sampled.
            seed: The seed of sampled tokens. They depend on the seed and the image's path, or the pixels of an opened
                picture, and not on the other images.

        Raises:
            UserError: If an image cannot be read, or the demonstrations do not fit into the language model's context.
            TypeError: For a single image that is not in a list.
        """
        if isinstance(images, Frame | Image):
            raise TypeError(f"images must be a list, got a single one: {images!r}")
        own_template = self.processor.template if template is None else CaptionTemplate(template)
        prompts = []
        for image in images:
            prompts.append(caption_prompt(_image(image), demonstrations, own_template))
        engine = FlamingoEngine(self.model, self.processor, self.batch_size)
        sampling = None if temperature is None else Sampling(temperature, top_p, seed)
        return engine.generate(
            prompts,
            max_new_tokens,
            num_beams if sampling is None else 1,
            min_new_tokens=min_new_tokens,
            sampling=sampling,
        )


def caption_prompt(
    image: Image,
    demonstrations: Sequence[tuple[Frame | Image, str]],
    template: CaptionTemplate,
    id: str | None = None,
) -> Document:
    """Returns the document that a caption of the image continues.

    Args:
        image: The image.
        demonstrations: Images with their captions, shown before it in this order.
        template: The text of each image.
        id: The id of the document, on which sampled tokens depend; None: the paths of the image's frames, or digests of
            pictures.
    """
    parts: list[Part] = []
    for demonstration, caption in demonstrations:
        parts += [_image(demonstration), Text(template.filled(caption))]
    parts += [image, Text(template.prompt)]
    return Document(parts, id=" ".join(image_key(image)) if id is None else id)


def _image(image: Frame | Image) -> Image:
    return image if isinstance(image, Image) else Image(image)
