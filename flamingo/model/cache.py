"""Prompt cache: keys and values of a prompt are stored once for all of its beams.

The beams (or samples) of a prompt lie next to each other on the time axis. A mask records which of the cached tokens
belong to the prefix of each beam. No beam has a copy of the prompt, reordering the beams changes only the mask, and
the attention of all beams reads the prompt once. An example with a prompt of 3 tokens and 2 beams::

    cached keys           p0 p1 p2 | a0 b0 | a1 b1        step 0 appended a0, b0, step 1 appended a1, b1
    prefix of beam a       1  1  1    1  0    1  0
    prefix of beam b       1  1  1    0  1    0  1

    reorder_cache([0, 0])             both beams continue from beam a
    prefix of beam a       1  1  1    1  0    1  0
    prefix of beam b       1  1  1    1  0    1  0
"""

from collections.abc import Collection
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from flamingo.model.packed_attention import IMPLEMENTATION

#: The smallest spare room of a buffer that grows, in tokens.
_LEAST_GROWTH = 64


class GrowingLayer(DynamicLayer):
    """Keys and values [b k s e] in buffers with spare room: appending a token rarely copies the others."""

    def update(
        self,
        key_states: Float[Tensor, "b k t e"],
        value_states: Float[Tensor, "b k t value_width"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Float[Tensor, "b k s e"], Float[Tensor, "b k s value_width"]]:
        """Appends the keys and values of ``t`` tokens, and returns those of all tokens.

        Returns:
            The keys and values of all ``s`` tokens, as views of the buffers.
        """
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_buffer = key_states[:, :, :0]
            self._value_buffer = value_states[:, :, :0]
        if end > self._key_buffer.shape[-2]:
            self._key_buffer = _enlarged(self._key_buffer[:, :, :start], end)
            self._value_buffer = _enlarged(self._value_buffer[:, :, :start], end)
        self._key_buffer[:, :, start:end] = key_states
        self._value_buffer[:, :, start:end] = value_states
        self.keys = self._key_buffer[:, :, :end]
        self.values = self._value_buffer[:, :, :end]
        return self.keys, self.values

    def keep(self, start: int, places: Int[Tensor, "b kept"]) -> None:
        """Drops all tokens from ``start`` on other than those at ``places``, which count from ``start``."""
        index = places[:, None, :, None].to(self.keys.device)
        kept_keys = self.keys[:, :, start:].take_along_dim(index, dim=2)
        kept_values = self.values[:, :, start:].take_along_dim(index, dim=2)
        end = start + places.shape[1]
        self._key_buffer[:, :, start:end] = kept_keys
        self._value_buffer[:, :, start:end] = kept_values
        self.keys = self._key_buffer[:, :, :end]
        self.values = self._value_buffer[:, :, :end]

    def expand(self, rows: int) -> "GrowingLayer":
        """Returns a layer of ``rows`` documents that all begin with this one, which does not change."""
        layer = GrowingLayer()
        layer.lazy_initialization(self.keys, self.values)
        # Views: the first update copies them into buffers.
        layer.keys = self.keys.expand(rows, -1, -1, -1)
        layer.values = self.values.expand(rows, -1, -1, -1)
        layer._key_buffer = layer.keys
        layer._value_buffer = layer.values
        return layer


class PromptCache(Cache):
    """The cache of prompts and, after :meth:`fork`, of several beams of each prompt."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[GrowingLayer() for _ in range(layers)])
        #: Which of the cached tokens later tokens may attend to; None: all. The caller sets it when it makes the cache.
        self.visible: Int[Tensor, "b s"] | None = None
        #: Which of the cached tokens belong to the prefix of each beam; None before :meth:`fork`.
        self.prefix_mask: Bool[Tensor, "b n s"] | None = None
        self._prompt_length = 0
        #: Runs the tokens after the prompts in a cache of its own; None: they are cached here.
        self.step: Any = None

    @staticmethod
    def supports(language_model: Any, arguments: Collection[str]) -> bool:
        """Returns whether a language model takes positions and any attention mask, and attends to all tokens.

        Args:
            language_model: A transformers model, or one that peft has wrapped.
            arguments: The names of the arguments of its forward pass.
        """
        config = language_model.config
        if "position_ids" not in arguments:
            return False
        if not language_model._supports_attention_backend:
            return False
        if config._attn_implementation not in ("sdpa", IMPLEMENTATION):
            return False
        return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)

    def expand(self, rows: int) -> "PromptCache":
        """Returns a cache for ``rows`` prompts that begin with the prompt of this cache, which does not change."""
        assert self.prefix_mask is None
        expanded = PromptCache(0)
        expanded.layers = [layer.expand(rows) for layer in self.layers]
        return expanded

    def keep(self, start: int, places: Int[Tensor, "b kept"]) -> None:
        """Drops all tokens from ``start`` on other than those at ``places``, which count from ``start``."""
        for layer in self.layers:
            layer.keep(start, places)

    def fork(self, attention_mask: Int[Tensor, "b s"], beams: int) -> None:
        """Gives every prompt ``beams`` beams. Each later step appends one token to each beam."""
        self.prefix_mask = repeat(attention_mask.bool(), "b s -> b n s", n=beams)
        self._prompt_length = attention_mask.shape[1]

    @property
    def forked(self) -> bool:
        """Whether the prompts have beams."""
        return self.prefix_mask is not None

    def append_mask(self, visible: Int[Tensor, "b n"] | None = None) -> Bool[Tensor, "b 1 n s"]:
        """Returns the attention mask for the next token of every beam: its own prefix and itself.

        Args:
            visible: 0 for a token that neither itself nor later tokens may attend to; None: all are 1.
        """
        assert self.prefix_mask is not None
        b, n, _ = self.prefix_mask.shape
        itself = torch.eye(n, dtype=torch.bool, device=self.prefix_mask.device).expand(b, n, n)
        if visible is not None:
            itself = itself & visible.bool().unsqueeze(1)
        self.prefix_mask = torch.cat([self.prefix_mask, itself], dim=-1)
        return self.prefix_mask.unsqueeze(1)

    def merge_beams(self, tokens: Int[Tensor, "bn 1"]) -> Int[Tensor, "b n"]:
        """Returns the tokens of all beams of a prompt in one row."""
        assert self.prefix_mask is not None
        return rearrange(tokens, "(b n) 1 -> b n", n=self.prefix_mask.shape[1])

    def split_beams(self, outputs: Float[Tensor, "b n d"]) -> Float[Tensor, "bn 1 d"]:
        """Returns the outputs of merged tokens with one row per beam."""
        return rearrange(outputs, "b n d -> (b n) 1 d")

    def reorder_cache(self, beam_idx: Int[Tensor, " bn"]) -> None:
        """Lets each beam continue from the beam that ``beam_idx`` names. Only the mask changes, no key or value."""
        assert self.prefix_mask is not None
        b, n, _ = self.prefix_mask.shape
        self.prefix_mask = self.prefix_mask.flatten(0, 1)[beam_idx].view(b, n, -1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the number of tokens of a prompt together with one of its beams."""
        length = super().get_seq_length(layer_idx)
        if self.prefix_mask is None:
            return length
        if self.step is not None:
            length = self.prefix_mask.shape[-1]
        return self._prompt_length + (length - self._prompt_length) // self.prefix_mask.shape[1]


def _enlarged(states: Tensor, end: int) -> Tensor:
    """Returns a buffer that begins with ``states`` and has room for ``end`` tokens and some more."""
    b, k, s, e = states.shape
    buffer = states.new_empty(b, k, end + max(end // 4, _LEAST_GROWTH), e)
    buffer[:, :, :s] = states
    return buffer
