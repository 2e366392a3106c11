"""The gated cross-attention block: text tokens attend to images, then pass a gated feed-forward.

Source: Flamingo (arXiv 2204.14198), section 2.2, section 2.3 for the mask, appendix A.1.2.
"""

from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward, attend, checkpointed
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.fusion.grouped import TokenGroups, group_tokens, grouped_attention


class GatedCrossAttentionBlock(GradientCheckpointingLayer):
    """x += tanh(a) * attention(x -> visual tokens); x += tanh(b) * feedforward(x).

    The gates start at 0, so that the model starts as the unchanged language model. A token without an image gets no
    attention output, but still passes the gated feed-forward.
    """

    def __init__(self, text_width: int, visual_width: int, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.attend = config.attend
        #: Whether tokens attend to their image in groups; otherwise a mask hides the other images.
        self.grouped = config.attend == "last"
        rms_norm = partial(nn.RMSNorm, eps=config.rms_norm_eps)
        norm = rms_norm if config.norm == "rms" else nn.LayerNorm
        qk_norm = rms_norm if config.qk_norm else nn.Identity
        self.norm = norm(text_width)
        self.attention = Attention(text_width, visual_width, config.num_heads, config.head_dim, qk_norm)
        mlp_width = config.mlp_width or config.mlp_ratio * text_width
        self.feedforward = None
        if mlp_width:
            self.feedforward = FeedForward(norm(text_width), text_width, mlp_width, config.activation, config.glu)
        self.dropout = nn.Dropout(config.dropout)
        self.attention_gate = None
        self.feedforward_gate = None
        if config.gate != "none":
            gate_width = 1 if config.gate == "scalar" else text_width
            self.attention_gate = nn.Parameter(torch.zeros(gate_width))
            if self.feedforward is not None:
                self.feedforward_gate = nn.Parameter(torch.zeros(gate_width))

    def reset_parameters(self) -> None:
        """Closes the gates. Attention, feed-forward and norms are initialised by their own classes."""
        for gate in (self.attention_gate, self.feedforward_gate):
            if gate is not None:
                init.zeros_(gate)

    def keys_values(
        self, visual_tokens: Float[Tensor, "b m r v"]
    ) -> tuple[Float[Tensor, "b m k r e"], Float[Tensor, "b m k r e"]]:
        """Returns the keys and values of every image, which do not depend on the text."""
        return self.attention.keys_values(visual_tokens)

    def forward(
        self,
        hidden: Float[Tensor, "bn t d"],
        keys: Float[Tensor, "b m k r e"],
        values: Float[Tensor, "b m k r e"],
        image_index: Int[Tensor, "bn t"],
        groups: TokenGroups | None = None,
    ) -> Float[Tensor, "bn t d"]:
        """Returns the hidden states with the gated contributions of the images and the feed-forward.

        Args:
            hidden: The hidden states, in n rows per document (beams) that share its images.
            keys: The keys of all images.
            values: The values of all images.
            image_index: The image that each token sees, -1 for none.
            groups: The result of :func:`group_tokens`, the same for all blocks; None: computed here.
        """
        x = hidden.to(self.norm.weight.dtype)
        attended = self._cross_attention(x, keys, values, image_index, groups)
        x = x + _gated(self.attention_gate, self.dropout(attended)).to(x.dtype)
        if self.feedforward is not None:
            x = x + _gated(self.feedforward_gate, self.dropout(self.feedforward(x))).to(x.dtype)
        return x.to(hidden.dtype)

    def _cross_attention(
        self, x: Tensor, keys: Tensor, values: Tensor, image_index: Tensor, groups: TokenGroups | None
    ) -> Tensor:
        b, m = keys.shape[:2]
        if m == 0:
            return torch.zeros_like(x)
        queries = rearrange(self.attention.queries(self.norm(x)), "(b n) k t e -> b n t k e", b=b)
        index = rearrange(image_index, "(b n) t -> b n t", b=b)
        if m > 1 and self.grouped:
            # Recompute in the backward pass: the keys and values of all groups are many times larger than the images'.
            slot, image_of_group = groups or group_tokens(index, m)
            attended = checkpointed(grouped_attention, queries, keys, values, slot, image_of_group)
        else:
            attended = masked_attention(queries, keys, values, visible_images(index, m, self.attend))
        attended = self.attention.output(rearrange(attended, "b n t k e -> (b n) k t e"))
        # Tokens without an image attended to an arbitrary one, to avoid NaN in the softmax. Zero them here.
        return attended.where((image_index >= 0).unsqueeze(-1), 0.0)


def masked_attention(
    queries: Float[Tensor, "b n t k e"],
    keys: Float[Tensor, "b m k r e"],
    values: Float[Tensor, "b m k r e"],
    visible: Bool[Tensor, "b n t m"],
) -> Float[Tensor, "b n t k e"]:
    """Returns the attention output of each token over all of its visible images, by t * m * r scores.

    The output of a token without a visible image is arbitrary, but finite.
    """
    n, m = visible.shape[1], visible.shape[3]
    visible = visible | ~visible.any(dim=-1, keepdim=True)
    mask = None if m == 1 else repeat(visible, "b n t m -> b 1 (n t) (m r)", r=keys.shape[3])
    queries = rearrange(queries, "b n t k e -> b k (n t) e")
    keys = rearrange(keys, "b m k r e -> b k (m r) e")
    values = rearrange(values, "b m k r e -> b k (m r) e")
    attended = attend(queries, keys, values, mask)
    return rearrange(attended, "b k (n t) e -> b n t k e", n=n)


def visible_images(image_index: Int[Tensor, "*tokens"], images: int, attend: str) -> Bool[Tensor, "*tokens m"]:
    """Returns which images a token attends to.

    Args:
        image_index: The image that each token sees, -1 for none.
        images: The number of images.
        attend: "last": the image of its index; "previous": also all images before that one.
    """
    index = image_index.unsqueeze(-1)
    image = torch.arange(images, device=index.device)
    return index == image if attend == "last" else index >= image


def _gated(gate: Tensor | None, x: Tensor) -> Tensor:
    if gate is None:
        return x
    # The gradient of a gate is a sum over all tokens, which bfloat16 would round after each product.
    gate = gate.to(torch.promote_types(gate.dtype, torch.float32))
    return torch.tanh(gate) * x
