"""Multi-head attention and feed-forward, shared by the connectors and the fusion."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN


class Attention(nn.Module):
    """Multi-head attention from queries of one width to a context of another width.

    A separate method computes keys and values, so that a caller can compute them once and keep them.
    """

    def __init__(
        self,
        query_width: int,
        context_width: int,
        num_heads: int,
        head_dim: int,
        qk_norm: Callable[[int], nn.Module] = nn.Identity,
        bias: bool = False,
        context: str | None = None,
    ) -> None:
        """Makes the projections.

        Args:
            query_width: The width of the queries and of the outputs.
            context_width: The width of the context.
            num_heads: The number of attention heads.
            head_dim: The width of a head.
            qk_norm: Makes a norm of queries and keys for the width of a head (OBELICS, section 4).
            bias: Whether the projections have biases.
            context: "patches" or "latents", in a connector whose layers differ in their context. Inspection reads it.
        """
        super().__init__()
        self.num_heads = num_heads
        self.context = context
        self.to_q = nn.Linear(query_width, num_heads * head_dim, bias=bias)
        self.to_k = nn.Linear(context_width, num_heads * head_dim, bias=bias)
        self.to_v = nn.Linear(context_width, num_heads * head_dim, bias=bias)
        self.to_out = nn.Linear(num_heads * head_dim, query_width, bias=bias)
        self.q_norm = qk_norm(head_dim)
        self.k_norm = qk_norm(head_dim)

    def keys_values(
        self, context: Float[Tensor, "*batch s width"]
    ) -> tuple[Float[Tensor, "*batch k s e"], Float[Tensor, "*batch k s e"]]:
        """Returns the keys and values of a context of ``s`` elements."""
        keys = rearrange(self.to_k(context), "... s (k e) -> ... k s e", k=self.num_heads)
        values = rearrange(self.to_v(context), "... s (k e) -> ... k s e", k=self.num_heads)
        return self.k_norm(keys), values

    def queries(self, x: Float[Tensor, "*batch q width"]) -> Float[Tensor, "*batch k q e"]:
        """Returns the queries of each head ``k``."""
        return self.q_norm(rearrange(self.to_q(x), "... q (k e) -> ... k q e", k=self.num_heads))

    def output(self, attended: Float[Tensor, "*batch k q e"]) -> Float[Tensor, "*batch q width"]:
        """Returns the outputs of all heads, projected to the width of the queries."""
        return self.to_out(rearrange(attended, "... k q e -> ... q (k e)"))

    def forward(
        self, x: Float[Tensor, "b q width"], keys: Float[Tensor, "b k s e"], values: Float[Tensor, "b k s e"]
    ) -> Float[Tensor, "b q width"]:
        """Returns the attention of each ``x`` over the whole context."""
        return self.output(attend(self.queries(x), keys, values))


def attend(
    queries: Float[Tensor, "b k q e"],
    keys: Float[Tensor, "b k s e"],
    values: Float[Tensor, "b k s e"],
    mask: Bool[Tensor, "b 1 q s"] | None = None,
) -> Float[Tensor, "b k q e"]:
    """Returns softmax(q k^T / sqrt(e)) v.

    Args:
        queries: The queries of each head.
        keys: The keys of each head.
        values: The values of each head.
        mask: True where a query may attend to a key; None: everywhere.
    """
    dtype = queries.dtype
    return F.scaled_dot_product_attention(queries, keys.to(dtype), values.to(dtype), attn_mask=mask)


def attention_weights(
    queries: Float[Tensor, "b k q e"], keys: Float[Tensor, "b k s e"], mask: Bool[Tensor, "b 1 q s"] | None = None
) -> Float[Tensor, "b k q s"]:
    """Returns the softmax weights of :func:`attend`; 0 for a query that may not attend to any key."""
    scores = queries.float() @ keys.float().mT / queries.shape[-1] ** 0.5
    if mask is None:
        return scores.softmax(dim=-1)
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).where(mask, 0.0)


def checkpointed(
    function: Callable[..., Float[Tensor, "..."]], *tensors: Shaped[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Returns ``function(*tensors)``, and recomputes its intermediate results in the backward pass.

    ``function`` must not draw random numbers.
    """
    if not torch.is_grad_enabled():
        return function(*tensors)
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)


def head_norm(kind: str) -> type[nn.Module]:
    """Returns the class of the norm of queries and keys: "layer" or "rms"."""
    return nn.LayerNorm if kind == "layer" else nn.RMSNorm


class FeedForward(nn.Module):
    """Norm, up, activation, down; without biases.

    A gated linear unit (arXiv 2002.05202) applies the activation to a second projection, ``gate``, and multiplies the
    result with the output of ``up``.
    """

    def __init__(self, norm: nn.Module, width: int, inner_width: int, activation: str, glu: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.up = nn.Linear(width, inner_width, bias=False)
        self.gate = nn.Linear(width, inner_width, bias=False) if glu else None
        self.activation = ACT2FN[activation]
        self.down = nn.Linear(inner_width, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Returns the output of the feed-forward, without a residual connection."""
        x = self.norm(x)
        # Recompute the activation in the backward pass: it is the largest saved tensor.
        if self.gate is None:
            return checkpointed(self._down, self.up(x))
        return checkpointed(self._gated_down, self.up(x), self.gate(x))

    def _down(self, up: Tensor) -> Tensor:
        return self.down(self.activation(up))

    def _gated_down(self, up: Tensor, gate: Tensor) -> Tensor:
        return self.down(self.activation(gate) * up)
