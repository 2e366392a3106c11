"""Windows of a page's tokens: where each ends, which images it has, and the weights of their starts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

#: What each image adds to the weights of the tokens before it (M4).
_BONUS = 2.0
#: The part of a window in which an image adds to the weight of its start (M4).
_BONUS_PART = 0.75


@dataclass(frozen=True)
class PageTokens:
    """The tokens of a page: the first position of each image, and which tokens are text."""

    image_starts: Int[np.ndarray, " images"]
    is_text: Bool[np.ndarray, " tokens"]
    #: The positions that an image takes.
    tokens_per_image: int
    #: Whether the first token is BOS, which each window begins with.
    has_bos: bool

    @property
    def num_tokens(self) -> int:
        """The number of tokens."""
        return len(self.is_text)

    def stops(self, length: int) -> Int[np.ndarray, " tokens"]:
        """Returns the end of the window that begins at each token. A window cuts no image.

        Args:
            length: The most tokens of a window.
        """
        starts = np.arange(self.num_tokens)
        stops = starts + length
        if self.has_bos:
            stops[1:] -= 1
        stops = np.minimum(stops, self.num_tokens)
        last_image = np.searchsorted(self.image_starts, stops) - 1
        last_start = self.image_starts[last_image]
        is_cut = (last_image >= 0) & (last_start + self.tokens_per_image > stops)
        return np.where(is_cut, last_start, stops)


def start_weights(page: PageTokens, length: int, min_tokens: int, before_images: bool) -> Float[np.ndarray, " tokens"]:
    """Returns the weight of each token as the start of a window of a page that is longer than the window.

    A token weighs 1. With ``before_images`` each image adds 2 to the ``int(0.75 * length)`` tokens before it, so that a
    quarter of the window may follow the image (M4's ``packing.py``). The positions of images, except the first position
    of the page, and the last ``min_tokens`` tokens weigh 0.

    Args:
        page: The tokens of the page.
        length: The most tokens of a window.
        min_tokens: The fewest tokens of a window.
        before_images: Whether tokens before images weigh more.
    """
    weights = np.ones(page.num_tokens)
    if before_images:
        for start in page.image_starts.tolist():
            # All positions of the image have to lie in the window.
            earliest = start - 1 + page.tokens_per_image - int(_BONUS_PART * length)
            weights[max(0, earliest) : start] += _BONUS
    for start in page.image_starts.tolist():
        weights[max(1, start) : start + page.tokens_per_image] = 0
    weights[page.num_tokens - min_tokens :] = 0
    return weights


def num_images_from(page: PageTokens, length: int) -> Int[np.ndarray, " tokens"]:
    """Returns for each token the number of images of the window that begins there.

    Args:
        page: The tokens of the page.
        length: The most tokens of a window.
    """
    starts = np.arange(page.num_tokens)
    return np.searchsorted(page.image_starts, page.stops(length)) - np.searchsorted(page.image_starts, starts)


def has_text_after_image(page: PageTokens, length: int) -> Bool[np.ndarray, " tokens"]:
    """Returns for each token whether the window that begins there has text after its first image.

    Args:
        page: The tokens of the page, which has an image.
        length: The most tokens of a window.
    """
    stops = page.stops(length)
    next_image = np.searchsorted(page.image_starts, np.arange(page.num_tokens))
    # Behind the last image there is none.
    starts_of_images = np.append(page.image_starts, page.num_tokens)
    after_image = np.minimum(starts_of_images[next_image] + page.tokens_per_image, stops)
    num_texts_before = np.concatenate([[0], np.cumsum(page.is_text)])
    return num_texts_before[stops] > num_texts_before[after_image]
