"""A cache for prompts and their continuations: a prompt is kept once, whatever goes on from it.

The beams (or samples) of a prompt lie beside each other on the axis of time, and a mask says which of the cached
tokens each goes on from. So no beam has a copy of the prompt, reordering beams is a matter of the mask alone, and the
attention of all beams reads the prompt once.
"""

from collections.abc import Collection
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values [b k s e] in memory that has room for more, so that a token is appended without copying all."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        old = self.get_seq_length()
        end = old + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rooms: tuple[Tensor, ...] = (key_states[:, :, :0], value_states[:, :, :0])
        if end > self._rooms[0].shape[-2]:
            self._rooms = tuple(_enlarged(room[:, :, :old], end) for room in self._rooms)
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, old:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values

    def shared_by(self, rows: int) -> "GrowingLayer":
        """A layer of ``rows`` documents that begin with this one, which stays as it is."""
        layer = GrowingLayer()
        layer.lazy_initialization(self.keys, self.values)
        # Views: the first update makes room, and copies.
        layer._rooms = (self.keys.expand(rows, -1, -1, -1), self.values.expand(rows, -1, -1, -1))
        layer.keys, layer.values = layer._rooms
        return layer


class PromptCache(Cache):
    """What a language model keeps of prompts, and from :meth:`branch` on of several continuations of each."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[GrowingLayer() for _ in range(layers)])
        #: Which of the cached tokens each continuation goes on from; None before there are any.
        self.visible: Bool[Tensor, "b n s"] | None = None

    @staticmethod
    def serves(language_model: Any, arguments: Collection[str]) -> bool:
        """Whether positions can be told to the language model, and its attention takes any mask and sees everything.

        A transformers model, or one that peft has wrapped.
        """
        config = language_model.config
        return (
            "position_ids" in arguments
            and language_model._supports_attention_backend
            and config._attn_implementation == "sdpa"
            and all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
        )

    def shared_by(self, rows: int) -> "PromptCache":
        """For ``rows`` prompts that begin with the one which is kept here, and stays as it is."""
        assert self.visible is None
        shared = PromptCache(0)
        shared.layers = [layer.shared_by(rows) for layer in self.layers]
        return shared

    def branch(self, attention_mask: Int[Tensor, "b s"], continuations: int) -> None:
        """From here on every prompt has so many continuations, of which each step appends a token."""
        self.visible = repeat(attention_mask.bool(), "b s -> b n s", n=continuations)
        self._prompt = attention_mask.shape[1]

    def step(self) -> Bool[Tensor, "b 1 n s"]:
        """What the tokens that each continuation appends now may see: what it goes on from, and itself."""
        assert self.visible is not None
        b, n, _ = self.visible.shape
        itself = torch.eye(n, dtype=torch.bool, device=self.visible.device).expand(b, n, n)
        self.visible = torch.cat([self.visible, itself], dim=-1)
        return self.visible.unsqueeze(1)

    @property
    def branched(self) -> bool:
        return self.visible is not None

    def beside(self, rows: Int[Tensor, "bn 1"]) -> Int[Tensor, "b n"]:
        """One token of each continuation, laid beside each other."""
        assert self.visible is not None
        return rearrange(rows, "(b n) 1 -> b n", n=self.visible.shape[1])

    def apart(self, outputs: Float[Tensor, "b n d"]) -> Float[Tensor, "bn 1 d"]:
        """What comes of these, a row for each continuation again."""
        return rearrange(outputs, "b n d -> (b n) 1 d")

    def reorder_cache(self, beam_idx: Int[Tensor, " bn"]) -> None:
        """Each beam goes on from what another of the same prompt went on from: keys and values stay where they are."""
        assert self.visible is not None
        b, n, _ = self.visible.shape
        self.visible = self.visible.flatten(0, 1)[beam_idx].view(b, n, -1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of a prompt with one of its continuations."""
        length = super().get_seq_length(layer_idx)
        return length if self.visible is None else self._prompt + (length - self._prompt) // self.visible.shape[1]


def _enlarged(states: Tensor, end: int) -> Tensor:
    """The same beginning of a memory that holds ``end`` tokens and, not to be enlarged each time, some more."""
    room = states.new_empty(*states.shape[:2], end + max(end // 4, 64), states.shape[3])
    room[:, :, : states.shape[2]] = states
    return room
