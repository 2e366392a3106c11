"""Multi-head attention and feed-forward, shared by the resampler and the gated blocks."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN


class Attention(nn.Module):
    """Attention from queries of one width to a context of another, without biases.

    Keys and values are a step of their own, so that a caller can compute them once and keep them.
    Queries and keys may pass a norm per head (OBELICS, section 4): ``qk_norm`` makes it for a width.
    """

    def __init__(
        self,
        query_width: int,
        context_width: int,
        heads: int,
        head_width: int,
        qk_norm: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(query_width, heads * head_width, bias=False)
        self.to_k = nn.Linear(context_width, heads * head_width, bias=False)
        self.to_v = nn.Linear(context_width, heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, query_width, bias=False)
        self.q_norm = qk_norm(head_width)
        self.k_norm = qk_norm(head_width)

    def keys_values(
        self, context: Float[Tensor, "*batch s width"]
    ) -> tuple[Float[Tensor, "*batch k s e"], Float[Tensor, "*batch k s e"]]:
        """Keys and values of a context of ``s`` elements."""
        keys = rearrange(self.to_k(context), "... s (k e) -> ... k s e", k=self.heads)
        values = rearrange(self.to_v(context), "... s (k e) -> ... k s e", k=self.heads)
        return self.k_norm(keys), values

    def queries(self, x: Float[Tensor, "*batch q width"]) -> Float[Tensor, "*batch k q e"]:
        """One for each head ``k``, as :func:`attend` takes them."""
        return self.q_norm(rearrange(self.to_q(x), "... q (k e) -> ... k q e", k=self.heads))

    def output(self, attended: Float[Tensor, "*batch k q e"]) -> Float[Tensor, "*batch q width"]:
        """What the heads have found, together."""
        return self.to_out(rearrange(attended, "... k q e -> ... q (k e)"))

    def forward(
        self, x: Float[Tensor, "b q width"], keys: Float[Tensor, "b k s e"], values: Float[Tensor, "b k s e"]
    ) -> Float[Tensor, "b q width"]:
        """Each of ``x`` attends to all of the context."""
        return self.output(attend(self.queries(x), keys, values))


def attend(
    queries: Float[Tensor, "b k q e"],
    keys: Float[Tensor, "b k s e"],
    values: Float[Tensor, "b k s e"],
    mask: Bool[Tensor, "b 1 q s"] | None = None,
) -> Float[Tensor, "b k q e"]:
    """softmax(q k^T / sqrt(e)) v, where ``mask`` is True for what a query may see."""
    dtype = queries.dtype
    return F.scaled_dot_product_attention(queries, keys.to(dtype), values.to(dtype), attn_mask=mask)


def attention_weights(
    queries: Float[Tensor, "b k q e"], keys: Float[Tensor, "b k s e"], mask: Bool[Tensor, "b 1 q s"] | None = None
) -> Float[Tensor, "b k q s"]:
    """What :func:`attend` multiplies the values with, which it does not hold; 0 for a query that may see nothing."""
    scores = queries.float() @ keys.float().mT / queries.shape[-1] ** 0.5
    if mask is None:
        return scores.softmax(dim=-1)
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).where(mask, 0.0)


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, which must not draw random numbers; what it keeps for the backward pass is made again."""
    if not torch.is_grad_enabled():
        return function(*tensors)
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)


class FeedForward(nn.Module):
    """Norm, up, activation, down; without biases.

    As a gated linear unit (arXiv 2002.05202) the activation is of a projection of its own, ``gate``, which
    multiplies that of ``up``.
    """

    def __init__(self, norm: nn.Module, width: int, inner_width: int, activation: str, glu: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.up = nn.Linear(width, inner_width, bias=False)
        self.gate = nn.Linear(width, inner_width, bias=False) if glu else None
        self.activation = ACT2FN[activation]
        self.down = nn.Linear(inner_width, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        x = self.norm(x)
        inner = (self.up(x),) if self.gate is None else (self.up(x), self.gate(x))
        # What comes out of the activation is the widest of all that would be kept; the product that follows it is not
        # made again.
        return recomputed(self._down, *inner)

    def _down(self, up: Tensor, gate: Tensor | None = None) -> Tensor:
        return self.down(self.activation(up) if gate is None else self.activation(gate) * up)
