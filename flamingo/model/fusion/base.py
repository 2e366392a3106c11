"""The interface between the model and a fusion, with the defaults of a fusion that changes nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

#: The language model's inputs from all images, computed once and kept while decoding.
VisualState = list[tuple[Float[Tensor, "b m ..."], ...]]


@dataclass(frozen=True)
class VisualContext:
    """The images of one forward pass, and which of them each token sees."""

    state: VisualState
    image_index: Int[Tensor, "bn t"]
    #: The visual token at each position, -1 for text; None if visual tokens take no positions.
    visual_index: Int[Tensor, "bn t"] | None = None

    def hidden(self, position_ids: Int[Tensor, "bn t"]) -> Bool[Tensor, "bn t"] | None:
        """Returns the positions that no token may attend to: those of images that are not seen.

        The first position of a text is never hidden, since each token must attend to at least one. It has the embedding
        of the image marker.
        """
        if self.visual_index is None:
            return None
        return (self.visual_index >= 0) & (self.image_index < 0) & (position_ids > 0)


class Fusion(nn.Module):
    """Brings visual tokens into a frozen language model.

    A fusion is built from its config, the width of the visual tokens, the language model and the id of the image
    marker. It may hook modules of the language model, but must not register them as its own. The parameters of the
    fusion train.
    """

    #: Whether tokens find their image by ``image_index`` alone, so that rows may contain images of other documents.
    sees_by_index = True
    #: The first layer of the language model whose input depends on parameters of the fusion.
    first_layer = 0

    def reset_parameters(self) -> None:
        """Initialises the parameters that the class itself owns."""

    def follow(self, layers: nn.ModuleList) -> None:
        """Moves the parts that belong to a layer of the language model to its device.

        Args:
            layers: The layers of the language model. A ``device_map`` may have put them on several devices.
        """

    def tokens_per_image(self, r: int) -> int:
        """Returns the number of positions of an image with ``r`` visual tokens in a text; 0: only its marker's."""
        return 0

    def prepare(self, visual_tokens: Float[Tensor, "b m r width"]) -> VisualState:
        """Returns the language model's inputs from the images, which do not depend on the text."""
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
        """Returns the visual token at each position, -1 for text; None if visual tokens take no positions.

        Args:
            input_ids: Texts from their beginning.
            image_index: The image that each token sees, -1 for none.
            state: The state of all images.
            check: Whether the values are read on the host and checked.

        Raises:
            ValueError: If an image has another number of positions than of visual tokens.
        """
        return None

    def embed(self, embeddings: Float[Tensor, "bn t d"], context: VisualContext) -> Float[Tensor, "bn t d"]:
        """Returns the language model's input, given the embeddings of the token ids."""
        return embeddings

    def attached(self, context: VisualContext) -> AbstractContextManager[None]:
        """Returns a context in which one forward pass of the language model sees the images of ``context``.

        Raises:
            UserError: At its end, if a hooked module of the language model was not called.
        """
        return nullcontext()

    def checkpointing(self, checkpoint: Callable) -> Callable:
        """Returns ``checkpoint``, changed to recompute a layer in the context of its forward pass."""
        return checkpoint

    def after_prompt(self, context: VisualContext) -> VisualContext:
        """Returns the part of a prompt's context that its continuation needs."""
        return context

    def attention_flops(self, r: int) -> int:
        """Returns the operations of a token's attention to the ``r`` visual tokens of an image, without weights.

        Visual tokens that take positions of the text attend and are attended to in the language model: 0 here.
        """
        return 0

    def measures(self) -> dict[str, Any]:
        """Returns the values that a training adds to each record of its history."""
        return {}

    def opened(self) -> AbstractContextManager[None]:
        """Returns a context in which images change the logits, even before any training."""
        return nullcontext()

    def switched_off(self) -> AbstractContextManager[None]:
        """Returns a context in which a text without image positions has the logits of the bare language model."""
        return nullcontext()
