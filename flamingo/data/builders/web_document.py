"""Pages -> documents: a window of each page, with few tokens and few images."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from flamingo.data import drops
from flamingo.data.builders import WebDocumentConfig
from flamingo.data.coins import flip
from flamingo.data.document import Document, Part, TokenWindow
from flamingo.data.drops import Dropped, Drops
from flamingo.data.pages.page import Page, PageImage, PagePart
from flamingo.data.pages.page_layout import (
    PartWriter,
    images_at_the_end,
    images_before_texts,
    images_below,
    longest_row_of_images,
    one_section,
    page_chunks,
    text_of_each_image,
)
from flamingo.data.pages.page_texts import PageTexts
from flamingo.data.pages.window_starts import PageTokens, has_text_after_image, num_images_from, start_weights
from flamingo.data.processor import FlamingoProcessor
from flamingo.data.text_markers import IMAGE_TOKEN, special_tokens
from flamingo.utils.errors import UserError

#: Pages with more text are left out: a page of 16 MB would keep a worker busy for a minute.
MAX_CHARACTERS = 1_000_000


class _DroppedError(Exception):
    """The page gives no document."""


@dataclass
class _Sample:
    """One page while its document is made: its random draws, and what was left out so far."""

    page: Page
    rng: random.Random
    drops: Drops = field(default_factory=Drops)


def _check_contents(parts: Sequence[PagePart]) -> None:
    if not any(isinstance(part, PageImage) for part in parts):
        raise _DroppedError(drops.NO_IMAGE)
    texts = [part for part in parts if isinstance(part, str)]
    if not any(text.strip() for text in texts):
        raise _DroppedError(drops.NO_TEXT)
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise _DroppedError(drops.TOO_MUCH_TEXT)


class WebDocument:
    """Makes one document of a page, or says why there is none."""

    def __init__(self, config: WebDocumentConfig, processor: FlamingoProcessor, seed: int | str) -> None:
        """Makes the builder.

        Args:
            config: The windows and the filters.
            processor: Counts tokens and knows special tokens.
            seed: The seed of all random draws.

        Raises:
            UserError: If the windows do not fit the tokenizer or the images.
        """
        self.config, self.processor, self.seed = config, processor, seed
        limit = processor.tokenizer.model_max_length
        if config.max_tokens > limit:
            raise UserError(f"max_tokens is {config.max_tokens}, but the tokenizer and the model allow {limit} tokens")
        if IMAGE_TOKEN not in processor.tokenizer.get_vocab():
            raise UserError(f"documents of pages need the token {IMAGE_TOKEN}, which the tokenizer does not have")
        self.tokens_per_image = max(1, processor.tokens_per_image)
        if config.max_tokens <= self.tokens_per_image:
            raise UserError(
                f"max_tokens is {config.max_tokens}, but an image alone takes {self.tokens_per_image} tokens"
            )
        tokenizer = processor.tokenizer
        special_ids = tokenizer.convert_tokens_to_ids(special_tokens(tokenizer))
        self.special_ids = [*special_ids, processor.end_of_chunk_token_id]
        self.texts = PageTexts(processor, escape=config.special_tokens == "escape")

    def document(self, page: Page, position: int) -> Document | Dropped:
        """Returns the document of a page; a pure function of the seed and the position.

        Args:
            page: The page.
            position: The position of the page in the order of draws, over all epochs.
        """
        sample = _Sample(page, random.Random(f"{self.seed} {position}"))
        try:
            return self._document(sample)
        except _DroppedError as reason:
            return Dropped(str(reason), sample.drops)

    def _document(self, sample: _Sample) -> Document:
        config, rng = self.config, sample.rng
        parts = self._placed(sample)
        if config.sections == "one":
            parts = one_section(parts, rng)
        _check_contents(parts)
        next_image = flip(config.p_next, rng)
        tokens = self._page_tokens(self._parts(parts, next_image, sample.page))
        start = self._start(tokens, rng)
        stop = int(tokens.stops(config.max_tokens)[start])
        first_image, end = np.searchsorted(tokens.image_starts, [start, stop]).tolist()
        num_images = end - first_image
        if num_images == 1 and self._filters(sample.page) and not flip(config.single_image_prob, rng):
            raise _DroppedError(drops.SINGLE_IMAGE)
        length = stop - start + int(tokens.has_bos and start > 0)
        if num_images > config.max_images:
            sample.drops[drops.IMAGE_OVER_LIMIT] += num_images - config.max_images
            parts = images_below(parts, first_image + config.max_images)
            length = config.max_tokens
        written = self._parts(parts, next_image, sample.page)
        return Document(written, sample.page.id, window=TokenWindow(start, length), drops=sample.drops)

    def _placed(self, sample: _Sample) -> list[PagePart]:
        """Returns the texts and images of the page that are kept, each image at its place."""
        self._check_rows(sample.page.parts)
        parts: list[PagePart] = []
        # Columns of the similarity matrix, and the places of their texts.
        columns: list[int] = []
        places: list[int] = []
        num_texts = 0
        for part in sample.page.parts:
            if isinstance(part, str):
                text = self.texts.usable(part, sample.drops)
                if text is not None:
                    columns.append(num_texts)
                    places.append(len(parts))
                    parts.append(text)
                num_texts += 1
            elif not isinstance(part, PageImage) or self._is_kept(part, sample):
                parts.append(part)
        if not sample.page.unplaced:
            return parts
        similarity = sample.page.similarity
        assert similarity is not None and similarity.shape == (len(sample.page.unplaced), num_texts)
        images, texts = self._images_and_texts(similarity[:, columns], sample)
        return images_before_texts(parts, images, [places[text] for text in texts])

    def _check_rows(self, parts: Sequence[PagePart]) -> None:
        in_a_row, at_the_end = self.config.max_images_in_a_row, self.config.max_images_at_the_end
        if in_a_row is not None and longest_row_of_images(parts) > in_a_row:
            raise _DroppedError(drops.IMAGES_IN_A_ROW)
        if at_the_end is not None and images_at_the_end(parts) > at_the_end:
            raise _DroppedError(drops.IMAGES_AT_THE_END)

    def _is_kept(self, image: PageImage, sample: _Sample) -> bool:
        if image.image is None:
            sample.drops[image.fault] += 1
            if self.config.missing_images == "drop_page":
                raise _DroppedError(drops.MISSING_IMAGE_ON_PAGE)
            return False
        is_small = image.num_bytes is not None and image.num_bytes < self.config.min_image_bytes
        if is_small and self._filters(sample.page):
            sample.drops[drops.IMAGE_TOO_SMALL] += 1
            return False
        return True

    def _filters(self, page: Page) -> bool:
        """Returns whether the page loses small images, and is left out at random if it has a single one."""
        return self.config.filter_placed or len(page.unplaced) > 0

    def _images_and_texts(
        self, similarity: Float[np.ndarray, "images texts"], sample: _Sample
    ) -> tuple[list[PageImage], list[int]]:
        """Returns the images without a place that are kept, and the number of the text of each."""
        rows = [row for row, image in enumerate(sample.page.unplaced) if self._is_kept(image, sample)]
        different_texts = self.config.assignment == "linear"
        chosen = text_of_each_image(similarity[rows], different_texts, self.config.min_similarity)
        images: list[PageImage] = []
        texts: list[int] = []
        for row, text in zip(rows, chosen, strict=True):
            if text is None:
                sample.drops[drops.IMAGE_NOT_SIMILAR] += 1
            elif self.config.window_start == "beginning" and len(images) == self.config.max_images:
                # OpenFlamingo keeps the first images in the order of the page's list, not in that of its texts.
                sample.drops[drops.IMAGE_OVER_LIMIT] += 1
            else:
                images.append(sample.page.unplaced[row])
                texts.append(text)
        return images, texts

    def _parts(self, parts: Sequence[PagePart], next_image: bool, page: Page) -> list[Part]:
        writer = PartWriter(
            separator=self.config.text_separator,
            leading_context=self.config.leading_text == "context",
            trims_before_images=len(page.unplaced) == 0,
        )
        return writer.parts(page_chunks(parts, next_image))

    def _page_tokens(self, parts: Sequence[Part]) -> PageTokens:
        tokens = self.processor.tokens(Document(parts))
        image_starts = tokens.image_starts(self.processor.image_token_id)
        return PageTokens(
            image_starts=np.array(list(image_starts.values())),
            is_text=~np.isin(tokens.ids, self.special_ids),
            tokens_per_image=self.tokens_per_image,
            has_bos=tokens.has_bos,
        )

    def _start(self, tokens: PageTokens, rng: random.Random) -> int:
        """Returns the first token of the window.

        Raises:
            _DroppedError: If no window has enough tokens, images and text.
        """
        config = self.config
        if tokens.num_tokens < config.min_tokens:
            raise _DroppedError(drops.TOO_FEW_TOKENS)
        if config.window_start == "beginning" or tokens.num_tokens <= config.max_tokens:
            weights = np.eye(1, tokens.num_tokens)[0]
        else:
            before_images = config.window_start == "before_images"
            weights = start_weights(tokens, config.max_tokens, config.min_tokens, before_images)
        weights *= num_images_from(tokens, config.max_tokens) >= config.min_images
        if not weights.any():
            raise _DroppedError(drops.TOO_FEW_IMAGES)
        weights *= has_text_after_image(tokens, config.max_tokens)
        if not weights.any():
            raise _DroppedError(drops.NO_TEXT_AFTER_IMAGES)
        [start] = rng.choices(range(tokens.num_tokens), weights.tolist())
        return start
