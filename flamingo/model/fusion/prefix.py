"""Visual prefix: visual tokens take the place of the image markers in the language model's input.

Sources: Frozen (arXiv 2106.13884), LLaVA (arXiv 2304.08485), BLIP-2 (arXiv 2301.12597, section 3.2).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.fusion import PrefixConfig
from flamingo.model.fusion.base import Fusion, VisualContext, VisualState
from flamingo.model.fusion.visual_index import index_of_markers, whole_images
from flamingo.utils.errors import UserError


class PrefixFusion(Fusion):
    """Visual tokens in the input, mapped linearly to the width of the embeddings if they have another.

    Its state has the embeddings [b m r d] of all images. Text attends to them by the language model's own attention.
    """

    def __init__(
        self,
        config: PrefixConfig,
        visual_width: int,
        language_model: PreTrainedModel,
        image_token_id: int | None,
    ) -> None:
        super().__init__()
        if image_token_id is None:
            raise UserError("fusion.kind=prefix needs image_token_id, the id of the image marker in texts")
        self.image_token_id = image_token_id
        width = language_model.get_input_embeddings().weight.shape[1]
        self.projection = nn.Identity() if visual_width == width else nn.Linear(visual_width, width)

    def tokens_per_image(self, r: int) -> int:
        """Returns the number of positions of an image with ``r`` visual tokens in a text: ``r``."""
        return r

    def prepare(self, visual_tokens: Float[Tensor, "b m r width"]) -> VisualState:
        """Returns the embeddings of all images."""
        return [(self.projection(visual_tokens),)]

    def visual_index(
        self, input_ids: Int[Tensor, "bn t"], image_index: Int[Tensor, "bn t"], state: VisualState, check: bool
    ) -> Int[Tensor, "bn t"]:
        """Returns the visual token at each position, -1 for text.

        Raises:
            ValueError: If ``check`` is set and an image has another number of markers than of visual tokens.
        """
        [(visual,)] = state
        tokens = visual.shape[2]
        index = index_of_markers(input_ids, self.image_token_id, tokens)
        if check and not whole_images(index, image_index, tokens).all():
            raise ValueError(
                f"an image has {tokens} visual tokens, but input_ids has another number of markers (id "
                f"{self.image_token_id}) for an image: set processor.tokens_per_image"
            )
        return index

    def embed(self, embeddings: Float[Tensor, "bn t d"], context: VisualContext) -> Float[Tensor, "bn t d"]:
        """Returns the embeddings with visual tokens at the positions of the images that are seen."""
        [(visual,)] = context.state
        b, m, r, _ = visual.shape
        if m == 0:
            return embeddings
        assert context.visual_index is not None
        rows = len(embeddings)
        document = torch.arange(rows, device=visual.device) // (rows // b)
        image = document.unsqueeze(1) * m + context.image_index.clamp(min=0)
        place = image * r + context.visual_index.clamp(min=0)
        tokens = visual.flatten(0, 2).index_select(0, place.flatten()).view_as(embeddings)
        is_seen = (context.visual_index >= 0) & (context.image_index >= 0)
        return torch.where(is_seen.unsqueeze(-1), tokens.to(embeddings.dtype), embeddings)
