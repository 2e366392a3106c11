"""Ways of attention from text tokens to one image each, for the benchmark of kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from flamingo.model.attention import checkpointed
from flamingo.model.fusion import grouped
from flamingo.model.fusion.gated_block import masked_attention, visible_images
from flamingo.model.fusion.grouped import group_tokens, grouped_attention

#: The sizes of groups to compare. The first one is that of the model.
GROUP_SIZES = (grouped.GROUP_SIZE, 64, 128)


@dataclass(frozen=True)
class ImageLayer:
    """The queries of tokens, the keys and values of images, and the image that each token sees."""

    queries: Float[Tensor, "b n t k e"]
    keys: Float[Tensor, "b m k r e"]
    values: Float[Tensor, "b m k r e"]
    image_index: Int[Tensor, "b n t"]


def ways(device: torch.device) -> dict[str, Callable[[ImageLayer], Callable[[], Tensor]]]:
    """Returns the ways by name. A way prepares what a batch needs once, and returns the attention of one block."""
    made: dict[str, Callable[[ImageLayer], Callable[[], Tensor]]] = {}
    for size in GROUP_SIZES:
        made[f"groups of {size}"] = partial(_in_groups, size)
    made["mask"] = _masked
    if device.type == "cuda":
        made["varlen"] = _sorted
    return made


def _in_groups(size: int, layer: ImageLayer) -> Callable[[], Tensor]:
    def attend() -> Tensor:
        grouped.GROUP_SIZE = size
        return checkpointed(grouped_attention, layer.queries, layer.keys, layer.values, slot, image_of_group)

    grouped.GROUP_SIZE = size
    slot, image_of_group = group_tokens(layer.image_index, layer.keys.shape[1])
    return attend


def _masked(layer: ImageLayer) -> Callable[[], Tensor]:
    visible = visible_images(layer.image_index, layer.keys.shape[1], "last")
    return partial(masked_attention, layer.queries, layer.keys, layer.values, visible)


def _sorted(layer: ImageLayer) -> Callable[[], Tensor]:
    """Returns varlen attention of tokens sorted by image, which needs no copy of keys for each group, and no mask."""
    from torch.nn.attention.varlen import varlen_attn

    b, m, _, r, _ = layer.keys.shape
    first_image = m * torch.arange(b, device=layer.keys.device)[:, None, None]
    image = (layer.image_index.clamp(min=0) + first_image).flatten()
    order = image.argsort(stable=True)
    place = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    counts = torch.zeros(b * m, dtype=torch.long, device=image.device).scatter_add(0, image, torch.ones_like(image))
    token_bounds = pad(counts.cumsum(0), (1, 0)).int()
    key_bounds = r * torch.arange(b * m + 1, dtype=torch.int32, device=image.device)

    def attend() -> Tensor:
        queries = rearrange(layer.queries, "b n t k e -> (b n t) k e").index_select(0, order)
        keys = rearrange(layer.keys, "b m k r e -> (b m r) k e")
        values = rearrange(layer.values, "b m k r e -> (b m r) k e")
        longest = layer.image_index[0].numel()
        attended = varlen_attn(queries, keys, values, token_bounds, key_bounds, longest, r)
        assert isinstance(attended, Tensor)
        return attended.index_select(0, place).view_as(layer.queries)

    return attend
