"""GATED XATTN-DENSE: lets the tokens of a frozen language model look at images.

Source: Flamingo (arXiv 2204.14198), section 2.2, section 2.3 for the mask, appendix A.1.2.
"""

from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward, attend, recomputed
from flamingo.model.config import Attend, GatedConfig

#: Tokens of a block that attend to one image together: the fastest of 16 to 128, for 5 and for 33 images on a CPU.
_BLOCK = 32


class GatedCrossAttentionBlock(GradientCheckpointingLayer):
    """x += tanh(a) * attention(x -> visual tokens); x += tanh(b) * feedforward(x).

    The gates start at 0, so that the spliced model starts as the unchanged language model. A token
    that sees no image gets no attention output, but still passes the gated feed-forward.
    """

    def __init__(self, text_width: int, visual_width: int, config: GatedConfig) -> None:
        super().__init__()
        self.attend = config.attend
        rms_norm = partial(nn.RMSNorm, eps=config.rms_eps)
        norm = rms_norm if config.norm == "rms" else nn.LayerNorm
        qk_norm = rms_norm if config.qk_norm else nn.Identity
        self.norm = norm(text_width)
        self.attention = Attention(text_width, visual_width, config.heads, config.head_width, qk_norm)
        inner_width = config.feedforward_width or config.feedforward_multiple * text_width
        self.feedforward = None
        if inner_width:
            self.feedforward = FeedForward(norm(text_width), text_width, inner_width, config.activation, config.glu)
        self.dropout = nn.Dropout(config.dropout)
        gate_width = {"scalar": 1, "vector": text_width, "none": None}[config.gate]
        self.attention_gate = None if gate_width is None else nn.Parameter(torch.zeros(gate_width))
        dense_width = None if self.feedforward is None else gate_width
        self.feedforward_gate = None if dense_width is None else nn.Parameter(torch.zeros(dense_width))

    def keys_values(
        self, visual_tokens: Float[Tensor, "b m r v"]
    ) -> tuple[Float[Tensor, "b m k r e"], Float[Tensor, "b m k r e"]]:
        """This block's keys and values of every image, which do not depend on the text."""
        return self.attention.keys_values(visual_tokens)

    def forward(
        self,
        hidden: Float[Tensor, "bn t d"],
        keys: Float[Tensor, "b m k r e"],
        values: Float[Tensor, "b m k r e"],
        image_index: Int[Tensor, "bn t"],
    ) -> Float[Tensor, "bn t d"]:
        """``hidden`` and ``image_index`` may hold n rows per document (beams): these share its images."""
        x = hidden.to(self.norm.weight.dtype)
        x = x + _gated(self.attention_gate, self.dropout(self._cross_attention(x, keys, values, image_index)))
        if self.feedforward is not None:
            x = x + _gated(self.feedforward_gate, self.dropout(self.feedforward(x)))
        return x.to(hidden.dtype)

    def _cross_attention(self, x: Tensor, keys: Tensor, values: Tensor, image_index: Tensor) -> Tensor:
        b, m = keys.shape[:2]
        if m == 0:
            return torch.zeros_like(x)
        queries = rearrange(self.attention.queries(self.norm(x)), "(b n) k t e -> b n t k e", b=b)
        index = rearrange(image_index, "(b n) t -> b n t", b=b)
        if m > 1 and self.attend == "last":
            # The keys and values of all blocks are many times those of the images.
            attended = recomputed(_attend_to_one_image, queries, keys, values, index)
        else:
            attended = _attend_to_images(queries, keys, values, visible_images(index, m, self.attend))
        # A token without an image has attended to some, only to stay finite.
        attended = self.attention.output(rearrange(attended, "b n t k e -> (b n) k t e"))
        return attended.where((image_index >= 0).unsqueeze(-1), 0.0)


def _attend_to_images(queries: Tensor, keys: Tensor, values: Tensor, visible: Bool[Tensor, "b n t m"]) -> Tensor:
    """Queries [b n t k e] to all visible images of their document, in t * m * r."""
    n, m = visible.shape[1], visible.shape[3]
    visible = visible | ~visible.any(dim=-1, keepdim=True)
    mask = None if m == 1 else repeat(visible, "b n t m -> b 1 (n t) (m r)", r=keys.shape[3])
    keys, values = (rearrange(part, "b m k r e -> b k (m r) e") for part in (keys, values))
    attended = attend(rearrange(queries, "b n t k e -> b k (n t) e"), keys, values, mask)
    return rearrange(attended, "b k (n t) e -> b n t k e", n=n)


def _attend_to_one_image(queries: Tensor, keys: Tensor, values: Tensor, image_index: Int[Tensor, "b n t"]) -> Tensor:
    """Queries [b n t k e] to the one image of their index, in t * r: tokens that see the same one stand in blocks."""
    b, m = keys.shape[:2]
    first = m * torch.arange(b, device=image_index.device)
    image = torch.where(image_index >= 0, image_index + first[:, None, None], b * m)
    block_length = min(_BLOCK, image.numel())
    place, image_of_block = token_blocks(image.flatten(), b * m, block_length)
    flat = rearrange(queries, "b n t k e -> (b n t) (k e)")
    blocks = flat.new_zeros(len(image_of_block) * block_length, flat.shape[1]).index_copy(0, place, flat)
    attended = attend(
        rearrange(blocks, "(block t) (k e) -> block k t e", t=block_length, k=keys.shape[2]),
        *(part.flatten(0, 1)[image_of_block] for part in (keys, values)),
    )
    return rearrange(attended, "block k t e -> (block t) k e")[place].view_as(queries)


def token_blocks(
    image: Int[Tensor, " n"], images: int, length: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " blocks"]]:
    """Each token's place among blocks of ``length`` places that hold tokens of one image, and the image of each block.

    Tokens without an image have the number ``images``; what their blocks name is of no consequence. There are as
    many blocks as may be needed, whatever ``image`` holds: an accelerator does not have to be asked how many are.
    """
    counts = torch.zeros(images + 1, dtype=image.dtype, device=image.device)
    counts = counts.scatter_add(0, image, torch.ones_like(image))
    end = ((counts + length - 1) // length).cumsum(0)  # of each image's blocks
    ordered, order = image.sort(stable=True)
    rank = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[ordered]
    begin = end - (counts + length - 1) // length
    place = torch.empty_like(image).scatter(0, order, begin[ordered] * length + rank)
    blocks = len(image) // length + min(images + 1, len(image))
    image_of_block = torch.searchsorted(end, torch.arange(blocks, device=image.device), right=True)
    return place, image_of_block.clamp(max=images - 1)


def visible_images(image_index: Int[Tensor, "*tokens"], images: int, attend: Attend) -> Bool[Tensor, "*tokens m"]:
    """Which images a token sees: the one of its index, or that one and all before it; none for -1."""
    index = image_index.unsqueeze(-1)
    image = torch.arange(images, device=index.device)
    return index == image if attend == "last" else index >= image


def seen_images(
    image_index: Int[Tensor, "bn t"], documents: int, images: int, attend: Attend
) -> Bool[Tensor, "documents images"]:
    """Which images some token of their document sees, in any of its rows."""
    rows = rearrange(image_index, "(b n) t -> b (n t)", b=documents)
    return visible_images(rows, images, attend).any(dim=1)


def _gated(gate: Tensor | None, x: Tensor) -> Tensor:
    return x if gate is None else torch.tanh(gate) * x
