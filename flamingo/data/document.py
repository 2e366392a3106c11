"""One interleaved document: texts and images in order, and which texts are trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image as PILImage


@runtime_checkable
class Readable(Protocol):
    """The place of a picture's bytes: a ``pathlib.Path``, or a place in a larger file. ``str()`` names it uniquely."""

    def read_bytes(self) -> bytes:
        """Returns the bytes of the picture's file."""
        ...


@dataclass(frozen=True)
class Crop:
    """A random part of a picture, mirrored in half of the cases. It is a function of the picture and the number."""

    frame: "PILImage.Image | Readable | str"
    number: int

    def __str__(self) -> str:
        return f"{self.frame}, crop {self.number}"


Frame = PILImage.Image | Readable | str | Crop


@dataclass(frozen=True)
class Text:
    """A piece of text; ``train`` is whether the loss counts its tokens."""

    text: str
    train: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"a Text needs a string, got {type(self.text).__name__}")


@dataclass(frozen=True, init=False)
class Image:
    """A photograph, or a video as its frames. A frame is a picture, or a place that it is opened from when needed."""

    frames: tuple[Frame, ...]

    def __init__(self, *frames: Frame) -> None:
        for frame in frames:
            if not isinstance(frame, Frame):
                raise ValueError(f"a frame must be a picture, a path or have read_bytes, got {type(frame).__name__}")
        if not frames:
            raise ValueError("an Image needs at least one frame")
        object.__setattr__(self, "frames", frames)

    def crop(self, number: int) -> "Image":
        """Returns a random part of the photograph; crop 0 is the photograph itself.

        Args:
            number: The number of the crop.

        Raises:
            ValueError: For a video, and for an image that is a crop already.
        """
        if number == 0:
            return self
        if len(self.frames) > 1 or isinstance(self.frames[0], Crop):
            raise ValueError(f"only a whole photograph has crops, not {', '.join(map(str, self.frames))}")
        return Image(Crop(self.frames[0], number))


@dataclass(frozen=True)
class EndOfChunk:
    """Ends the current chunk without starting an image: between texts whose images were left out."""


@dataclass(frozen=True)
class SameChunk:
    """Joins the images before and after it: no end of chunk stands between them. For prompts of several images each."""


Part = Text | Image | EndOfChunk | SameChunk


def in_one_chunk(images: Sequence[Image]) -> list[Part]:
    """Returns the images without ends of chunks between them. There is at least one."""
    parts: list[Part] = [images[0]]
    for image in images[1:]:
        parts += [SameChunk(), image]
    return parts


@dataclass(frozen=True)
class Chunk:
    """An image (or none) and the texts that belong to it."""

    image: Image | None
    texts: tuple[Text, ...]
    #: Whether the next image follows without an end of chunk.
    joined: bool = False


@dataclass(frozen=True)
class Affixes:
    """Texts of a prompt between its chunks. They are no answers, and the loss does not count them."""

    #: The text at the beginning of the prompt.
    prefix: str = ""
    #: The text before the marker of each image.
    before_image: str = ""
    #: The text after the end of each demonstration.
    separator: str = ""
    #: The text at the end of each chunk; None: the processor's.
    end_of_chunk: str | None = None
    #: Whether the tokenizer's BOS may begin the prompt.
    bos: bool = True


@dataclass(frozen=True)
class TokenWindow:
    """The part of a document's tokens that is kept: at most ``length`` tokens, with BOS.

    ``start`` counts the tokens of the whole document, with BOS. Images whose marker is outside are not opened.
    """

    start: int
    length: int


@dataclass(frozen=True)
class Document:
    """Parts in reading order. ``id`` names the document in error messages."""

    parts: Sequence[Part]
    id: str = field(default="", compare=False)
    affixes: Affixes = field(default_factory=Affixes)
    #: The part of the document's tokens that is kept; None: all of them.
    window: TokenWindow | None = None
    #: Images and texts of a page that the document lacks, by reason: see :mod:`flamingo.data.drops`.
    drops: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not any(isinstance(part, Text | Image) for part in self.parts):
            raise ValueError(f"{self} has neither text nor image")
        for part in self.parts:
            if not isinstance(part, Part):
                raise ValueError(
                    f"{self} has a part of type {type(part).__name__}; parts are Text, Image, EndOfChunk or SameChunk"
                )

    def __str__(self) -> str:
        return f"document {self.id!r}" if self.id else "a document"

    def chunks(self, next_image: bool = False) -> list[Chunk]:
        """Returns each image with its texts: the texts after it, or with ``next_image`` the texts before it.

        On a web page either may be meant, so training flips a coin per page (Flamingo, appendix A.3.2). Texts without
        an image make a chunk of their own.
        """
        chunks: list[Chunk] = []
        image: Image | None = None
        texts: list[Text] = []
        joined = False
        for part in self.parts:
            if isinstance(part, Text):
                texts.append(part)
                continue
            if isinstance(part, SameChunk):
                assert not next_image, f"{self}: only texts after their images can belong to several images"
                joined = True
                continue
            # An image, or an EndOfChunk, ends the chunk before it.
            if next_image and isinstance(part, Image):
                image = part
            if image is not None or texts:
                chunks.append(Chunk(image, tuple(texts), joined))
            texts, joined = [], False
            image = part if isinstance(part, Image) and not next_image else None
        if image is not None or texts:
            chunks.append(Chunk(image, tuple(texts)))
        return chunks

    def last_images(self) -> list[Image]:
        """Returns the images that share the last text, in their order: those of the query of a prompt."""
        images: list[Image] = []
        previous_is_joined = False
        for chunk in self.chunks():
            if not previous_is_joined:
                images = []
            if chunk.image is not None:
                images.append(chunk.image)
            previous_is_joined = chunk.joined
        return images
