"""Puts gated blocks before the layers of an untouched Hugging Face causal language model.

The language model stays what transformers made it, state-dict keys included: a forward pre-hook on
each chosen layer applies that layer's block, a forward hook on the output head adds the new
tokens' logits. Both act only within :meth:`Splice.seeing`; called by itself, the language model is
the bare one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.layers import repeated_layers
from flamingo.model.tokens import NewTokenEmbeddings
from flamingo.utils.errors import UserError

#: Keys and values [b m k r e] of all images, one pair per gated block.
VisualCache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class VisualContext:
    """What the text of one forward pass can see."""

    cache: VisualCache
    image_index: Tensor  # [bn t]


class Splice:
    """The hooks, and the context that they work in during a forward pass."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        blocks: nn.ModuleDict,
        new_tokens: NewTokenEmbeddings,
    ) -> None:
        """``blocks`` has a gated block for each chosen layer, under the layer's index."""
        self._context: VisualContext | None = None
        #: The hooks that ran in the current forward pass: indices of layers, and "head".
        self._ran: set[str] = set()
        self._name, self._width = type(language_model).__name__, language_model.config.hidden_size
        self._blocks = blocks
        layers = repeated_layers(language_model)
        for position, index in enumerate(blocks):
            hook = partial(self._before_layer, position, index)
            layers[int(index)].register_forward_pre_hook(hook, with_kwargs=True)
        language_model.get_output_embeddings().register_forward_hook(partial(self._after_head, new_tokens))

    @contextmanager
    def forward_pass(self, context: VisualContext) -> Iterator[None]:
        """As :meth:`seeing`, around one whole forward pass of the language model.

        Raises UserError if the hook of a layer or of the head did not run: the model would work without that block.
        """
        outer, self._ran = self._ran, set()
        try:
            with self.seeing(context):
                yield
            if missing := [name for name in (*self._blocks, "head") if name not in self._ran]:
                raise UserError(
                    f"{self._name} did not call {_listed(missing)} as the module that the gated blocks are attached "
                    "to: the layer was skipped, replaced, or called through another module"
                )
        finally:
            self._ran = outer

    @contextmanager
    def seeing(self, context: VisualContext | None) -> Iterator[None]:
        """The language model, run within, sees ``context``; afterwards nothing is kept."""
        outer, self._context = self._context, context
        try:
            yield
        finally:
            self._context = outer

    def checkpointing(self, checkpoint: Callable) -> Callable:
        """``checkpoint`` made to recompute a layer in the context of its own forward pass.

        By the time of the backward pass that context is over, or another forward has come between.
        """
        return partial(self._checkpointed, checkpoint)

    def _checkpointed(self, checkpoint: Callable, layer: Callable, *args: Any) -> Any:
        return checkpoint(partial(self._run_seeing, self._context, layer), *args)

    def _run_seeing(self, context: VisualContext | None, layer: Callable, *args: Any) -> Any:
        with self.seeing(context):
            return layer(*args)

    def _before_layer(
        self, position: int, index: str, layer: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        if self._context is None:
            return None
        self._ran.add(index)
        keys, values = self._context.cache[position]
        hidden = args[0] if args else kwargs["hidden_states"]
        expected = (*self._context.image_index.shape, self._width)
        if hidden.shape != expected:
            raise UserError(
                f"{self._name} gives its layers hidden states of shape {list(hidden.shape)}, but a gated block takes "
                f"one vector for each token: {list(expected)}"
            )
        # Looked up now, so that a block which was replaced or wrapped is the one that acts.
        hidden = self._blocks[index](hidden, keys, values, self._context.image_index)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def _after_head(
        self, new_tokens: NewTokenEmbeddings, head: nn.Module, args: tuple, logits: Tensor
    ) -> Tensor | None:
        if self._context is None:
            return None
        self._ran.add("head")
        if logits.ndim != 3:
            raise UserError(f"{self._name} gives its output head hidden states of shape {list(args[0].shape)}")
        return new_tokens.extend_logits(logits, args[0])


def _listed(missing: list[str]) -> str:
    layers = [name for name in missing if name != "head"]
    named = [f"layer {', '.join(layers)}"] if layers else []
    return " and ".join([*named, "the output head"] if "head" in missing else named)
