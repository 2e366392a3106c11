"""Gated cross-attention in front of layers of a frozen language model.

The language model is a causal one of transformers, and keeps its class and its state-dict keys: a forward pre-hook on
a layer applies the block of that layer. The hooks act only within :meth:`CrossAttentionFusion.attached`; outside it
the language model is the bare one.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.fusion.base import Fusion, VisualContext, VisualState
from flamingo.model.fusion.gated_block import GatedCrossAttentionBlock, visible_images
from flamingo.model.fusion.grouped import TokenGroups, group_tokens
from flamingo.model.layers import repeated_layers
from flamingo.model.precision import Autocast, current_autocast
from flamingo.utils.errors import UserError
from flamingo.utils.shards import whole

#: The value of open gates.
_OPEN = 0.5


@dataclass(frozen=True)
class _GroupedContext(VisualContext):
    """The images of one forward pass, and the tokens in groups by image, computed once for all blocks."""

    groups: TokenGroups | None = None
    #: The autocast in which the blocks compute: the language model may have none.
    autocast: Autocast | None = None


class CrossAttentionFusion(Fusion):
    """Gated blocks, the hooks that apply them, and the context of the current forward pass.

    Its state has the keys and values [b m k r e] of all images, one pair per block.
    """

    def __init__(
        self,
        config: CrossAttentionConfig,
        visual_width: int,
        language_model: PreTrainedModel,
        image_token_id: int | None,
    ) -> None:
        super().__init__()
        self.attend = config.attend
        self.sees_by_index = config.attend == "last"
        self._context: _GroupedContext | None = None
        #: The layers whose hooks ran in the current forward pass.
        self._called: set[str] = set()
        self._name = type(language_model).__name__
        self._width = language_model.config.hidden_size
        #: Index of a layer -> its gated block.
        self.blocks = nn.ModuleDict()
        layers = repeated_layers(language_model)
        indices = config.layer_indices(len(layers))
        self.first_layer = indices[0]
        self._heads_width = config.num_heads * config.head_dim
        for position, index in enumerate(indices):
            self.blocks[str(index)] = GatedCrossAttentionBlock(self._width, visual_width, config)
            hook = partial(self._before_layer, position, str(index))
            layers[index].register_forward_pre_hook(hook, with_kwargs=True)

    def follow(self, layers: nn.ModuleList) -> None:
        """Moves each gated block to the device of its layer."""
        for index, block in self.blocks.items():
            block.to(next(layers[int(index)].parameters()).device)

    def prepare(self, visual_tokens: Float[Tensor, "b m r width"]) -> VisualState:
        """Returns the keys and values of all images, one pair per block, each on the device of its block."""
        state: VisualState = []
        for block in self.blocks.values():
            device = next(block.parameters()).device
            state.append(block.keys_values(visual_tokens.to(device)))  # type: ignore[operator]
        return state

    def seen_images(
        self, image_index: Int[Tensor, "bn t"], documents: int, images: int
    ) -> Bool[Tensor, "documents images"]:
        """Returns which images at least one token of their document attends to, in any of its rows."""
        rows = rearrange(image_index, "(b n) t -> b (n t)", b=documents)
        return visible_images(rows, images, self.attend).any(dim=1)

    @contextmanager
    def attached(self, context: VisualContext) -> Iterator[None]:
        """Lets one forward pass of the language model in the block see the images of ``context``.

        Raises:
            UserError: If a layer with a gated block was not called.
        """
        outer_called = self._called
        self._called = set()
        try:
            with self._with_context(self._grouped(context)):
                yield
            missing = [index for index in self.blocks if index not in self._called]
            if missing:
                raise UserError(
                    f"{self._name} did not call layer {', '.join(missing)} as the module that the gated blocks are "
                    "attached to: the layer was skipped, replaced, or called through another module"
                )
        finally:
            self._called = outer_called

    def _grouped(self, context: VisualContext) -> _GroupedContext:
        """Returns the context with the groups of its tokens, if the blocks attend in groups."""
        b, m = context.state[0][0].shape[:2]
        groups = None
        if m > 1 and self.attend == "last":
            groups = group_tokens(rearrange(context.image_index, "(b n) t -> b n t", b=b), m)
        autocast = current_autocast(context.image_index.device)
        return _GroupedContext(context.state, context.image_index, groups=groups, autocast=autocast)

    @contextmanager
    def _with_context(self, context: _GroupedContext | None) -> Iterator[None]:
        outer_context = self._context
        self._context = context
        try:
            yield
        finally:
            self._context = outer_context

    def checkpointing(self, checkpoint: Callable) -> Callable:
        """Returns ``checkpoint``, changed to recompute a layer in the context of its forward pass."""
        # By the backward pass the context has ended, or another forward pass has begun.
        return partial(self._checkpointed, checkpoint)

    def _checkpointed(self, checkpoint: Callable, layer: Callable, *args: Any) -> Any:
        return checkpoint(partial(self._run_in_context, self._context, layer), *args)

    def _run_in_context(self, context: _GroupedContext | None, layer: Callable, *args: Any) -> Any:
        with self._with_context(context):
            return layer(*args)

    def _before_layer(
        self, position: int, index: str, layer: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        if self._context is None:
            return None
        self._called.add(index)
        keys, values = self._context.state[position]
        hidden = args[0] if args else kwargs["hidden_states"]
        expected = (*self._context.image_index.shape, self._width)
        if hidden.shape != expected:
            raise UserError(
                f"{self._name} gives its layers hidden states of shape {list(hidden.shape)}, but a gated block takes "
                f"one vector for each token: {list(expected)}"
            )
        # Look up the block at each call: it may have been replaced or wrapped.
        assert self._context.autocast is not None
        # The layer before may lie on another device.
        device = keys.device
        groups = self._context.groups
        if groups is not None:
            groups = (groups[0].to(device), groups[1].to(device))
        image_index = self._context.image_index.to(device)
        with self._context.autocast.entered():
            hidden = self.blocks[index](hidden.to(device), keys, values, image_index, groups)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden}

    def after_prompt(self, context: VisualContext) -> VisualContext:
        """Returns the context with only the image that each row's last token sees, as image 0.

        If tokens also see earlier images, all images are kept.
        """
        image_index = context.image_index
        documents, images = context.state[0][0].shape[:2]
        if images == 0 or self.attend != "last":
            return context
        rows_per_document = len(image_index) // documents
        document = torch.arange(len(image_index), device=image_index.device) // rows_per_document
        last = image_index[:, -1].clamp(min=0)
        state: VisualState = []
        for keys, values in context.state:
            rows, seen = document.to(keys.device), last.to(keys.device)
            state.append((keys[rows, seen].unsqueeze(1), values[rows, seen].unsqueeze(1)))
        return replace(context, state=state, image_index=image_index.clamp(max=0))

    def attention_flops(self, r: int) -> int:
        """Returns the operations of the logits and the weighted sums in all blocks, of one image a token."""
        return len(self.blocks) * 4 * r * self._heads_width

    @torch.no_grad()
    def gates(self) -> dict[str, Float[Tensor, " width"]]:
        """Returns tanh of each gate, [1] or [d], as ``<layer>.attention`` and ``<layer>.feedforward``.

        All processes of a sharded model call it together.
        """
        gates = {}
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("_gate"):
                gates[name.removesuffix("_gate")] = torch.tanh(whole(parameter).float())
        return gates

    def measures(self) -> dict[str, Any]:
        """Returns the gates under ``gates``. The value of a vector is its mean magnitude."""
        values = {}
        for name, gate in self.gates().items():
            values[name] = gate.item() if gate.numel() == 1 else gate.abs().mean().item()
        return {"gates": values}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Opens every gate in the block."""
        with self._gates_at(_OPEN):
            yield

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Closes every gate in the block. Gated blocks without gates return their inputs."""
        with self._gates_at(0.0), ExitStack() as hooks:
            if not self.gates():
                for block in self.blocks.values():
                    hooks.enter_context(block.register_forward_hook(lambda block, args, output: args[0]))
            yield

    @contextmanager
    def _gates_at(self, value: float) -> Iterator[None]:
        """Sets every gate to this value in the block."""
        gates = [gate for name, gate in self.blocks.named_parameters() if name.endswith("_gate")]
        saved = [gate.detach().clone() for gate in gates]
        try:
            for gate in gates:
                gate.data.fill_(value)
            yield
        finally:
            for gate, old in zip(gates, saved, strict=True):
                gate.data.copy_(old)
