"""Multi-head attention and feed-forward, shared by the resampler and the gated blocks."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN


class Attention(nn.Module):
    """Attention from queries of one width to a context of another, without biases.

    Keys and values are a step of their own, so that a caller can compute them once and keep them.
    With ``qk_norm`` queries and keys pass an RMSNorm per head (OBELICS, section 4).
    """

    def __init__(self, query_width: int, context_width: int, heads: int, head_width: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(query_width, heads * head_width, bias=False)
        self.to_k = nn.Linear(context_width, heads * head_width, bias=False)
        self.to_v = nn.Linear(context_width, heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, query_width, bias=False)
        self.q_norm = nn.RMSNorm(head_width) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(head_width) if qk_norm else nn.Identity()

    def keys_values(
        self, context: Float[Tensor, "*batch s width"]
    ) -> tuple[Float[Tensor, "*batch k s e"], Float[Tensor, "*batch k s e"]]:
        """Keys and values of a context of ``s`` elements."""
        keys = rearrange(self.to_k(context), "... s (k e) -> ... k s e", k=self.heads)
        values = rearrange(self.to_v(context), "... s (k e) -> ... k s e", k=self.heads)
        return self.k_norm(keys), values

    def forward(
        self,
        queries: Float[Tensor, "b q width"],
        keys: Float[Tensor, "b k s e"],
        values: Float[Tensor, "b k s e"],
        mask: Bool[Tensor, "b 1 q s"] | None = None,
    ) -> Float[Tensor, "b q width"]:
        """softmax(q k^T / sqrt(e)) v, where ``mask`` is True for what a query may see."""
        q = self.q_norm(rearrange(self.to_q(queries), "b q (k e) -> b k q e", k=self.heads))
        attended = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype), attn_mask=mask)
        return self.to_out(rearrange(attended, "b k q e -> b q (k e)"))


class FeedForward(nn.Module):
    """LayerNorm, up, activation, down; without biases."""

    def __init__(self, width: int, multiple: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, multiple * width, bias=False)
        self.activation = ACT2FN[activation]
        self.down = nn.Linear(multiple * width, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.down(self.activation(self.up(self.norm(x))))
