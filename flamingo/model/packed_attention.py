"""Self-attention of the language model in training: packed rows by one of three kernels, and no mask read on the host.

Transformers reads a mask of tokens on the host, to find out whether there is padding. It hands a mask with four axes to
its layers unread. All masks of this module have four axes, and :func:`attention` tells them apart:

=================  ==================================================  =========================
mask               shape                                               kernel
=================  ==================================================  =========================
bool               [b 1 t t], true where a token may attend            SDPA with a mask
int32, empty       [1 1 1 0]: each token attends to all before it      SDPA, causal
int32              [1 1 1 segments+1]: the bounds of the documents     varlen (flash attention)
``BlockMask``      [b 1 t t], in blocks                                flex attention
=================  ==================================================  =========================
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flamingo.utils.devices import is_cuda
from flamingo.utils.errors import UserError

#: The name of :func:`attention` among the attention functions of transformers.
IMPLEMENTATION = "flamingo"
#: Arguments of a layer that change the scores. Flex and varlen attention would ignore them.
_SCORE_ARGUMENTS = ("softcap", "s_aux", "position_bias")


def attention(
    module: nn.Module,
    query: Float[Tensor, "b k t e"],
    key: Float[Tensor, "b shared s e"],
    value: Float[Tensor, "b shared s width"],
    attention_mask: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "b t k width"], None]:
    """Returns the outputs of a layer and no weights, as an attention function of transformers.

    Args:
        module: The layer.
        query: The queries.
        key: The keys, of fewer heads if groups of heads share them.
        value: The values.
        attention_mask: A mask of this module, or one that transformers has made for SDPA.
        scaling: Multiplies the scores; None: 1 / sqrt(e).
        **kwargs: Further arguments of transformers.
    """
    if isinstance(attention_mask, BlockMask):
        _check_scores(module, kwargs)
        return _flex(query, key, value, attention_mask, scaling), None
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        if attention_mask.shape[-1] > 0:
            _check_scores(module, kwargs)
            return _varlen(query, key, value, attention_mask.flatten(), scaling), None
        attention_mask = None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(IMPLEMENTATION, attention)
# Without a mask function transformers would drop the masks of padded prompts.
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@contextmanager
def prepared_masks(model: Any, kind: str) -> Iterator[None]:
    """Makes a model compute packed rows by a kernel within the block, and read no mask on the host.

    Args:
        model: A Flamingo model. A language model that takes no prepared masks stays as it is.
        kind: One of :data:`flamingo.model.PACKED_ATTENTION`.

    Raises:
        UserError: For flex or varlen attention that the model cannot use.
    """
    language_model = model.language_model
    if not model.takes_prepared_masks():
        if kind != "dense":
            raise UserError(
                f"training.packed_attention={kind} needs a language model that takes position_ids, with sdpa "
                "attention over all tokens: this one does not; use dense"
            )
        yield
        return
    if kind == "varlen" and model.fusion.tokens_per_image(1) > 0:
        raise UserError(
            "training.packed_attention=varlen cannot hide the positions of images that a text does not see: with this "
            "fusion use flex or dense"
        )
    outer_implementation, outer_kind = language_model.config._attn_implementation, model.packed_attention
    language_model.set_attn_implementation(IMPLEMENTATION)
    model.packed_attention = kind
    try:
        yield
    finally:
        language_model.set_attn_implementation(outer_implementation)
        model.packed_attention = outer_kind


def check_kernel(kind: str, device: torch.device) -> None:
    """Checks that a device has a kernel with gradients.

    Raises:
        UserError: If it has none.
    """
    if kind != "dense" and not is_cuda(device):
        raise UserError(f"training.packed_attention={kind} needs a CUDA device, and this is {device.type}: use dense")


def packed_mask(
    kind: str,
    segment_ids: Int[Tensor, "b t"],
    cu_seqlens: Int[Tensor, " bounds"] | None,
    hidden: Bool[Tensor, "b t"] | None,
) -> Any:
    """Returns the mask of packed rows: each token attends to those of its document up to itself.

    Args:
        kind: The kernel.
        segment_ids: The document of each token in its row. The padding of a row is a document of its own.
        cu_seqlens: The bounds of the documents in all rows, one row after the other.
        hidden: True where no token may attend. A dense mask does not contain it: see
            :func:`flamingo.model.masks.without_hidden`.

    Raises:
        ValueError: If varlen attention has no ``cu_seqlens``.
    """
    if kind == "flex":
        return _block_mask(segment_ids, hidden)
    if kind == "varlen":
        if cu_seqlens is None:
            raise ValueError("varlen attention needs cu_seqlens, which a batch of make_batch with known_ids has")
        assert hidden is None
        return cu_seqlens.to(torch.int32)[None, None, None, :]
    attending = rearrange(segment_ids, "b t -> b 1 t 1")
    attended = rearrange(segment_ids, "b s -> b 1 1 s")
    return (attending == attended).tril()


def row_mask(
    language_model: Any, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"] | None, is_hiding: bool
) -> Int[Tensor, "b t"] | Bool[Tensor, "b 1 t t"] | Int[Tensor, "1 1 1 0"]:
    """Returns the mask of rows with one document each, prepared within :func:`prepared_masks`.

    Args:
        language_model: The language model that gets the mask.
        input_ids: The token ids.
        attention_mask: 1 for tokens, 0 for padding on the right; None: there is no padding.
        is_hiding: Whether positions may be hidden later.
    """
    tokens = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if language_model.config._attn_implementation != IMPLEMENTATION:
        return tokens
    if attention_mask is None and not is_hiding:
        return torch.empty(1, 1, 1, 0, dtype=torch.int32, device=input_ids.device)
    t = tokens.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool, device=tokens.device).tril()
    return causal & tokens.bool()[:, None, None, :]


def _block_mask(segment_ids: Int[Tensor, "b t"], hidden: Bool[Tensor, "b t"] | None) -> BlockMask:
    visible = torch.ones_like(segment_ids, dtype=torch.bool) if hidden is None else ~hidden
    rows, t = segment_ids.shape
    return create_block_mask(
        # A lambda: torch counts the arguments of its code, which a wrapper that checks shapes would hide.
        lambda row, head, token, other: (
            (segment_ids[row, token] == segment_ids[row, other]) & (token >= other) & visible[row, other]
        ),
        rows,
        None,
        t,
        t,
        device=segment_ids.device,
        _compile=is_cuda(segment_ids.device),  # compiled, it does not store the whole mask
    )


def _flex(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None) -> Tensor:
    # Uncompiled, flex attention stores all scores. A CPU uses it in tests only.
    uncompiled = not is_cuda(query.device) or torch.compiler.is_compiling()
    attend = flex_attention if uncompiled else _compiled_flex_attention()
    shares_keys = key.shape[1] < query.shape[1]
    attended = attend(
        query.to(value.dtype), key.to(value.dtype), value, block_mask=mask, scale=scaling, enable_gqa=shares_keys
    )
    return rearrange(attended, "b k t e -> b t k e").contiguous()


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Int[Tensor, " bounds"], scaling: float | None
) -> Tensor:
    # Importing it imports the compiler.
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, t, _ = query.shape
    # Autocast knows SDPA, but not this function. A rotation of positions may have left fp32.
    queries = rearrange(query.to(value.dtype), "b k t e -> (b t) k e")
    keys = rearrange(key.to(value.dtype), "b g t e -> (b t) g e")
    values = rearrange(value, "b g t e -> (b t) g e")
    # The length of a row is an upper bound of the longest document, which is known on the host.
    attended: Any = varlen_attn(
        queries,
        keys,
        values,
        cu_seqlens,
        cu_seqlens,
        t,
        t,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=keys.shape[1] < heads,
    )
    return rearrange(attended, "(b t) k e -> b t k e", b=rows)


def _check_scores(module: nn.Module, arguments: dict[str, Any]) -> None:
    changed = [name for name in _SCORE_ARGUMENTS if arguments.get(name) is not None]
    if changed:
        raise UserError(
            f"{type(module).__name__} changes attention scores by {', '.join(changed)}: use "
            "training.packed_attention=dense"
        )
