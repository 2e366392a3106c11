"""GATED XATTN-DENSE: lets the tokens of a frozen language model look at images.

Source: Flamingo (arXiv 2204.14198), section 2.2, section 2.3 for the mask, appendix A.1.2.
"""

from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward
from flamingo.model.configuration import Attend, GatedConfig


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
        self.feedforward = FeedForward(norm(text_width), text_width, inner_width, config.activation, config.glu)
        self.dropout = nn.Dropout(config.dropout)
        gate_width = {"scalar": 1, "vector": text_width, "none": None}[config.gate]
        self.attention_gate = None if gate_width is None else nn.Parameter(torch.zeros(gate_width))
        self.feedforward_gate = None if gate_width is None else nn.Parameter(torch.zeros(gate_width))

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
        x = x + _gated(self.feedforward_gate, self.dropout(self.feedforward(x)))
        return x.to(hidden.dtype)

    def _cross_attention(self, x: Tensor, keys: Tensor, values: Tensor, image_index: Tensor) -> Tensor:
        b, m, _, r, _ = keys.shape
        if m == 0:
            return torch.zeros_like(x)
        if m > 1 and self.attend == "last" and x.shape[1] == 1:
            # One token per row, as in decoding: fetch the one image that it sees, so that the work
            # does not grow with the number of images.
            document = torch.arange(len(x), device=x.device) // (len(x) // b)
            image = image_index[:, 0].clamp(min=0)
            keys, values = keys[document, image].unsqueeze(1), values[document, image].unsqueeze(1)
            image_index = image_index.clamp(max=0)
            b, m = len(x), 1
        queries = rearrange(self.norm(x), "(b n) t d -> b (n t) d", b=b)
        visible = rearrange(visible_images(image_index, m, self.attend), "(b n) t m -> b (n t) m", b=b)
        sees_any = visible.any(dim=-1, keepdim=True)
        # A row without any image attends to all of them, only to stay finite: its output is dropped below.
        mask = None if m == 1 else repeat(visible | ~sees_any, "b nt m -> b 1 nt (m r)", r=r)
        attended = self.attention(
            queries, rearrange(keys, "b m k r e -> b k (m r) e"), rearrange(values, "b m k r e -> b k (m r) e"), mask
        )
        return rearrange(attended.where(sees_any, 0.0), "b (n t) d -> (b n) t d", t=x.shape[1])


def visible_images(image_index: Int[Tensor, "bn t"], images: int, attend: Attend) -> Bool[Tensor, "bn t m"]:
    """Which images a token sees: the one of its index, or that one and all before it; none for -1."""
    index = image_index.unsqueeze(-1)
    image = torch.arange(images, device=index.device)
    return index == image if attend == "last" else index >= image


def _gated(gate: Tensor | None, x: Tensor) -> Tensor:
    return x if gate is None else torch.tanh(gate) * x
