"""What the model asks of a fusion, with the answers of one that changes nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

#: What a language model takes of all images, computed once and kept while decoding: tuples of tensors [b m ...].
VisualState = list[tuple[Tensor, ...]]


@dataclass(frozen=True)
class VisualContext:
    """The images of one forward pass, and which of them each token sees."""

    state: VisualState
    image_index: Tensor  # [bn t]
    #: [bn t], the visual token that stands at each position, -1 for text; None if visual tokens take no positions.
    visual_index: Tensor | None = None

    def hidden(self, position_ids: Int[Tensor, "bn t"]) -> Bool[Tensor, "bn t"] | None:
        """Returns the positions that no token may attend to: those of images that are not seen.

        The first position of a text is never hidden, as each token needs one to attend to. It has the embedding of the
        image marker.
        """
        if self.visual_index is None:
            return None
        return (self.visual_index >= 0) & (self.image_index < 0) & (position_ids > 0)


class Fusion(nn.Module):
    """Brings visual tokens into a frozen language model.

    A fusion is built from its config, the width of the visual tokens, the language model, of which it may hook modules
    and must register none, and the id of the image marker. The parameters of the fusion train.
    """

    #: Whether tokens find their image by ``image_index`` alone, so that other images may stand beside it in any order.
    sees_by_index = True

    def reset_parameters(self) -> None:
        """Initialises the parameters that the class itself owns."""

    def tokens_per_image(self, r: int) -> int:
        """Returns the number of positions of the text that an image with ``r`` visual tokens takes; 0: its marker's."""
        return 0

    def prepare(self, visual_tokens: Float[Tensor, "b m r width"]) -> VisualState:
        """Returns what the language model takes of the images, whatever the text."""
        raise NotImplementedError

    def seen_images(
        self, image_index: Int[Tensor, "bn t"], documents: int, images: int
    ) -> Bool[Tensor, "documents images"]:
        """Returns which images at least one token of their document sees, in any of its rows."""
        index = rearrange(image_index, "(b n) t -> b (n t) 1", b=documents)
        return (index == torch.arange(images, device=index.device)).any(dim=1)

    def visual_index(
        self, input_ids: Int[Tensor, "bn t"], image_index: Int[Tensor, "bn t"], state: VisualState, check: bool
    ) -> Int[Tensor, "bn t"] | None:
        """Returns the visual token that stands at each position, -1 for text; None if visual tokens take no positions.

        Args:
            input_ids: Texts from their beginning.
            image_index: The image that each token sees, -1 for none.
            state: Of all images.
            check: Whether the values are read on the host and checked.

        Raises:
            ValueError: If an image has another number of positions than of visual tokens.
        """
        return None

    def embed(self, embeddings: Float[Tensor, "bn t d"], context: VisualContext) -> Float[Tensor, "bn t d"]:
        """Returns the language model's input, given the embeddings of the token ids."""
        return embeddings

    def attached(self, context: VisualContext) -> AbstractContextManager[None]:
        """Within it, one forward pass of the language model sees the images of ``context``.

        Raises:
            UserError: At its end, if a module of the language model that the fusion has hooked was not called.
        """
        return nullcontext()

    def checkpointing(self, checkpoint: Callable) -> Callable:
        """Returns ``checkpoint`` that recomputes a layer of the language model in the context of its forward pass."""
        return checkpoint

    def after_prompt(self, context: VisualContext) -> VisualContext:
        """Returns what the continuation of a prompt needs of its context."""
        return context

    def measures(self) -> dict[str, Any]:
        """Returns the values that a training adds to a record of its history."""
        return {}

    def opened(self) -> AbstractContextManager[None]:
        """Within it, images change the logits, also before any training."""
        return nullcontext()

    def switched_off(self) -> AbstractContextManager[None]:
        """Within it, the logits of a text without positions for images are those of the bare language model."""
        return nullcontext()
