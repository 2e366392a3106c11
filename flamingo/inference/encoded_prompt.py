"""Prompts as token ids and images, and prompts whose candidates are scored."""

from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Int
from torch import Tensor

from flamingo.data.document import Image
from flamingo.inference.candidate_trie import CandidateTrie
from flamingo.inference.visual_token_cache import ImageKey


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt's tokens, its images, and for each token the number of the image that it sees, -1 for none."""

    input_ids: Int[Tensor, " t"]
    image_index: Int[Tensor, " t"]
    #: The images, in the order of their numbers.
    images: list[Image]
    keys: list[ImageKey]
    #: The id of the document.
    id: str

    def tokens_with_images(self) -> list[tuple[int, ImageKey | None]]:
        """Returns each token's id and its image."""
        tokens = []
        for token, number in zip(self.input_ids.tolist(), self.image_index.tolist(), strict=True):
            tokens.append((token, self.keys[number] if number >= 0 else None))
        return tokens

    def without_last_images(self, number: int, sees_one_image: bool) -> "EncodedPrompt":
        """Returns the prompt with so many images, the last ones, unseen by any token.

        Args:
            number: The number of images. A prompt without images stays as it is.
            sees_one_image: Whether a token sees only one image, rather than all images before it. These stay seen.
        """
        first = max(0, len(self.images) - number)
        others = -1 if sees_one_image else first - 1
        image_index = self.image_index.masked_fill(self.image_index >= first, others)
        return replace(self, image_index=image_index, images=self.images[:first], keys=self.keys[:first])


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt and the trie of its candidates."""

    row: EncodedPrompt
    trie: CandidateTrie

    @cached_property
    def key(self) -> object:
        """Equal for equal prompts with the same trie."""
        return tuple(self.row.tokens_with_images()), id(self.trie)
