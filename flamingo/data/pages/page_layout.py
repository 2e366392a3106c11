"""Places the images of a page among its texts, and writes a page as the parts of a document."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from flamingo.data.document import EndOfChunk, Part, SameChunk, Text
from flamingo.data.pages.page import PageImage, PagePart, SectionBreak


def text_of_each_image(
    similarity: Float[np.ndarray, "images texts"], different_texts: bool, min_similarity: float
) -> list[int | None]:
    """Returns the text of each image; None: its similarity to the text is too small, or no text is left for it.

    Args:
        similarity: The similarity of each image to each text.
        different_texts: Whether all images get different texts, such that the sum of similarities is largest; otherwise
            each image gets its most similar text.
        min_similarity: The least similarity of an image to its text.
    """
    chosen: list[int | None] = [None] * len(similarity)
    if similarity.size == 0:
        return chosen
    if different_texts:
        images, texts = linear_sum_assignment(-similarity)
    else:
        images, texts = np.arange(len(similarity)), similarity.argmax(axis=1)
    for image, text in zip(images.tolist(), texts.tolist(), strict=True):
        if similarity[image, text] >= min_similarity:
            chosen[image] = text
    return chosen


def images_before_texts(parts: Sequence[PagePart], images: Sequence[PageImage], texts: Sequence[int]) -> list[PagePart]:
    """Returns the parts of a page with each image before its text. Images of the same text keep their order.

    Args:
        parts: The parts of the page without the images.
        images: The images.
        texts: The place of each image's text among ``parts``.
    """
    placed: list[PagePart] = []
    for place, part in enumerate(parts):
        for image, text in zip(images, texts, strict=True):
            if text == place:
                placed.append(image)
        placed.append(part)
    return placed


def longest_row_of_images(parts: Sequence[PagePart]) -> int:
    """Returns the largest number of images without text between them."""
    longest = length = 0
    for part in parts:
        length = length + 1 if isinstance(part, PageImage) else 0
        longest = max(longest, length)
    return longest


def images_at_the_end(parts: Sequence[PagePart]) -> int:
    """Returns the number of images after the last text."""
    number = 0
    for part in reversed(parts):
        if not isinstance(part, PageImage):
            break
        number += 1
    return number


def one_section(parts: Sequence[PagePart], rng: random.Random) -> list[PagePart]:
    """Returns a random one of the sections that have images; the first section if none has."""
    sections: list[list[PagePart]] = [[]]
    for part in parts:
        if isinstance(part, SectionBreak):
            sections.append([])
        else:
            sections[-1].append(part)
    with_images = []
    for section in sections:
        if any(isinstance(part, PageImage) for part in section):
            with_images.append(section)
    return rng.choice(with_images) if with_images else sections[0]


def images_below(parts: Sequence[PagePart], limit: int) -> list[PagePart]:
    """Returns the parts without all images from number ``limit`` on."""
    kept: list[PagePart] = []
    num_images = 0
    for part in parts:
        if isinstance(part, PageImage):
            num_images += 1
            if num_images > limit:
                continue
        kept.append(part)
    return kept


@dataclass(frozen=True)
class PageChunk:
    """An image of a page, or none, and the texts that belong to it."""

    image: PageImage | None
    texts: list[str]


def page_chunks(parts: Sequence[PagePart], next_image: bool) -> list[PageChunk]:
    """Returns each image with the texts after it, or with ``next_image`` the texts before it, up to the next image.

    Texts after a section break, and with ``next_image`` those before it, belong to no image.
    """
    chunks: list[PageChunk] = []
    image: PageImage | None = None
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        found = part if isinstance(part, PageImage) else None
        chunks.append(PageChunk(found if next_image else image, texts))
        image = None if next_image else found
        texts = []
    chunks.append(PageChunk(image, texts))
    return chunks


@dataclass(frozen=True)
class PartWriter:
    """Writes the chunks of a page as the parts of a document."""

    #: The text between texts of a chunk.
    separator: str
    #: Whether the text before the first image is its context, without an end of chunk and not trained on.
    leading_context: bool
    #: Whether a blank before an image is left out, as is a blank after an image.
    trims_before_images: bool

    def parts(self, chunks: Sequence[PageChunk]) -> list[Part]:
        """Returns the parts of a document. Chunks without image and text are left out."""
        parts: list[Part] = []
        has_image = False
        for number, chunk in enumerate(chunks):
            is_last = number == len(chunks) - 1
            text = self._text(chunk, is_last)
            if chunk.image is not None:
                assert chunk.image.image is not None, f"the image {chunk.image.name} is missing"
                parts.append(chunk.image.image)
                has_image = True
            elif text and parts:
                parts.append(EndOfChunk())
            if not text:
                continue
            is_context = self.leading_context and not has_image
            parts.append(Text(text, train=not is_context))
            if is_context and not is_last and chunks[number + 1].image is not None:
                parts.append(SameChunk())
        return parts

    def _text(self, chunk: PageChunk, is_last: bool) -> str:
        text = self.separator.join(chunk.texts)
        if chunk.image is not None:
            text = text.removeprefix(" ")
        if self.trims_before_images and not is_last:
            text = text.removesuffix(" ")
        return text
