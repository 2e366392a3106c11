"""Attention masks and positions of padded texts in which visual tokens may be hidden."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F


def without_hidden(attention_mask: Any, hidden: Bool[Tensor, "bn t"] | None) -> Any:
    """Returns the mask without the keys at hidden positions of the current tokens.

    A mask that transformers has prepared for a cache of fixed size excludes them already.

    Args:
        attention_mask: A mask [bn s] of tokens, a bool one [bn 1 t t] of training rows, or a prepared one.
        hidden: True at hidden positions; None: none are hidden.
    """
    if hidden is None or not isinstance(attention_mask, Tensor):
        return attention_mask
    t = hidden.shape[1]
    if attention_mask.ndim == 2:
        hidden_keys = F.pad(hidden, (attention_mask.shape[1] - t, 0), value=False)
        return attention_mask.masked_fill(hidden_keys, 0)
    if attention_mask.shape[-1] != t or attention_mask.dtype != torch.bool:
        return attention_mask
    return attention_mask & ~hidden[:, None, None, :]


def full_mask(input_ids: Int[Tensor, "bn t"], cache: Any) -> Int[Tensor, "bn s"]:
    """Returns the mask of texts without padding, whose first tokens may be in a cache of transformers."""
    cached = 0 if cache is None else cache.get_seq_length()
    return F.pad(torch.ones_like(input_ids), (cached, 0), value=1)


def positions(attention_mask: Int[Tensor, "bn s"]) -> Int[Tensor, "bn s"]:
    """Returns positions that count only real tokens, so that padding on the left does not matter."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
