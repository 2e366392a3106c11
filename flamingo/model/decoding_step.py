"""A decoding step whose inputs, cache and images stay in place, so that a graph of its kernels can be replayed.

The cache has a fixed number of places. A mask hides those that no token has yet. A step appends one token to every
beam, at places that are an input, too.
"""

from collections.abc import Hashable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from flamingo.model.cache import PromptCache
from flamingo.model.fusion.base import VisualContext, VisualState
from flamingo.utils.device_graph import DeviceGraph

#: The places of a cache are a multiple of this, so that prompts of other lengths have the same step.
_PLACES = 256


class _FixedLayer(DynamicLayer):
    """Keys and values [b k places e] of which each step writes some places."""

    def __init__(self, layer: Any, num_places: int, places: Int[Tensor, " n"]) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        # Zeros: what the mask hides must be finite.
        self.keys = _with_places(layer.keys, num_places)
        self.values = _with_places(layer.values, num_places)
        self._places = places

    def load(self, layer: Any) -> None:
        """Copies the keys and values of a prompt."""
        s = layer.keys.shape[2]
        self.keys[:, :, :s].copy_(layer.keys)
        self.values[:, :, :s].copy_(layer.values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns the keys and values of all places, after those of a step were written."""
        self.keys.index_copy_(2, self._places, key_states)
        self.values.index_copy_(2, self._places, value_states)
        return self.keys, self.values


class DecodingStep:
    """One token of every beam of prompts with the same shapes."""

    def __init__(self, model: Any, cache: PromptCache, context: VisualContext, num_places: int) -> None:
        """Makes the buffers.

        Args:
            model: The model, in evaluation mode.
            cache: The cache of the prompts, with beams.
            context: The images after the prompts.
            num_places: From :func:`places_needed`.
        """
        assert cache.prefix_mask is not None
        b, n, _ = cache.prefix_mask.shape
        device = cache.prefix_mask.device
        self._model = model
        self._ids = torch.zeros(b, n, dtype=torch.long, device=device)
        self._positions = torch.zeros_like(self._ids)
        self._image_index = torch.zeros_like(self._ids)
        self._visual_index = None if context.visual_index is None else torch.full_like(self._ids, -1)
        self._mask = torch.zeros(b, 1, n, num_places, dtype=torch.bool, device=device)
        self._places = torch.zeros(n, dtype=torch.long, device=device)
        self._state: VisualState = [tuple(torch.clone(tensor) for tensor in tensors) for tensors in context.state]
        self._layers = [_FixedLayer(layer, num_places, self._places) for layer in cache.layers]
        self._graph = DeviceGraph(self._forward, device)

    def load(self, cache: PromptCache, context: VisualContext) -> None:
        """Begins with prompts: copies their cache and their images."""
        for layer, prompt_layer in zip(self._layers, cache.layers, strict=True):
            layer.load(prompt_layer)
        for tensors, others in zip(self._state, context.state, strict=True):
            for tensor, other in zip(tensors, others, strict=True):
                tensor.copy_(other)
        self._image_index.copy_(context.image_index[:, -1:].expand_as(self._image_index))

    def __call__(
        self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b 1 n s"], positions: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n vocabulary"]:
        """Returns the logits of the next token of every beam.

        Args:
            ids: The current token of every beam, which is appended.
            mask: The cached tokens that each beam sees, the current tokens last.
            positions: The positions of the current tokens.
        """
        n, s = mask.shape[2:]
        assert s <= self._mask.shape[-1], "the cache has no place left"
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        self._mask.zero_()
        self._mask[..., :s].copy_(mask)
        torch.arange(s - n, s, out=self._places)
        return self._graph()

    def _forward(self) -> Tensor:
        device_type = self._ids.device.type
        dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
        # Weights that autocast has cast and kept would be freed, while a graph still reads them.
        with torch.autocast(device_type, dtype, enabled=enabled, cache_enabled=False):
            outputs = self._model._forward_text(
                self._ids,
                self._mask,
                self._positions,
                Cache(layers=self._layers),
                0,
                VisualContext(self._state, self._image_index, self._visual_index),
                {"use_cache": True},
            )
        return outputs.logits


def places_needed(cache: PromptCache, max_new_tokens: int) -> int:
    """Returns the places of a cache in which every beam can have ``max_new_tokens`` more tokens."""
    assert cache.prefix_mask is not None
    _, n, s = cache.prefix_mask.shape
    return -(-(s + n * max_new_tokens) // _PLACES) * _PLACES


def step_key(model: Any, cache: PromptCache, context: VisualContext, num_places: int) -> Hashable:
    """Returns what a step shares with the prompts that it can begin with: shapes, dtypes, and places of the weights."""
    assert cache.prefix_mask is not None
    device_type = cache.prefix_mask.device.type
    shapes: list[Hashable] = [num_places, *cache.prefix_mask.shape[:2], context.visual_index is None]
    for tensors in context.state:
        shapes += [(tensor.shape, tensor.dtype) for tensor in tensors]
    for layer in cache.layers:
        shapes.append((layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3], layer.keys.dtype))
    shapes.append((torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)))
    weights = [parameter.data_ptr() for parameter in model.parameters()]
    return tuple(shapes), tuple(weights)


def _with_places(states: Float[Tensor, "b k s e"], num_places: int) -> Float[Tensor, "b k places e"]:
    b, k, _, e = states.shape
    return states.new_zeros(b, k, num_places, e)
