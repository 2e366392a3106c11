"""Gated cross-attention: text tokens of a frozen language model attend to images.

Source: Flamingo (arXiv 2204.14198), section 2.2, section 2.3 for the mask, appendix A.1.2.

:class:`GatedCrossAttentionBlock` is a block. :class:`Splice` applies the blocks before the layers of a causal language
model of transformers, which keeps its class and its state-dict keys: a forward pre-hook on a layer applies the block of
that layer, and a forward hook on the output head adds the logits of the new tokens. Both hooks act only within
:meth:`Splice.attached`; outside of it the language model is the bare one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward, attend, checkpointed
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.fusion.grouped import grouped_attention
from flamingo.model.language import NewTokenEmbeddings
from flamingo.model.layers import repeated_layers
from flamingo.utils.errors import UserError

#: Keys and values [b m k r e] of all images, one pair per gated block.
VisualState = list[tuple[Tensor, Tensor]]

# ------------------------------------------------------------------------------------- the block


class GatedCrossAttentionBlock(GradientCheckpointingLayer):
    """x += tanh(a) * attention(x -> visual tokens); x += tanh(b) * feedforward(x).

    The gates start at 0, so that the model starts as the unchanged language model. A token without an image gets no
    attention output, but still passes the gated feed-forward.
    """

    def __init__(self, text_width: int, visual_width: int, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.attend = config.attend
        #: Whether tokens attend to their one image in groups; otherwise a mask hides the other images.
        self.grouped = config.attend == "last"
        rms_norm = partial(nn.RMSNorm, eps=config.rms_norm_eps)
        norm = rms_norm if config.norm == "rms" else nn.LayerNorm
        qk_norm = rms_norm if config.qk_norm else nn.Identity
        self.norm = norm(text_width)
        self.attention = Attention(text_width, visual_width, config.num_heads, config.head_dim, qk_norm)
        mlp_width = config.mlp_width or config.mlp_ratio * text_width
        self.feedforward = None
        if mlp_width:
            self.feedforward = FeedForward(norm(text_width), text_width, mlp_width, config.activation, config.glu)
        self.dropout = nn.Dropout(config.dropout)
        self.attention_gate = None
        self.feedforward_gate = None
        if config.gate != "none":
            gate_width = 1 if config.gate == "scalar" else text_width
            self.attention_gate = nn.Parameter(torch.zeros(gate_width))
            if self.feedforward is not None:
                self.feedforward_gate = nn.Parameter(torch.zeros(gate_width))

    def reset_parameters(self) -> None:
        """Closes the gates; attention, feed-forward and norms are initialised by their own classes."""
        for gate in (self.attention_gate, self.feedforward_gate):
            if gate is not None:
                init.zeros_(gate)

    def keys_values(
        self, visual_tokens: Float[Tensor, "b m r v"]
    ) -> tuple[Float[Tensor, "b m k r e"], Float[Tensor, "b m k r e"]]:
        """Returns the keys and values of every image, which do not depend on the text."""
        return self.attention.keys_values(visual_tokens)

    def forward(
        self,
        hidden: Float[Tensor, "bn t d"],
        keys: Float[Tensor, "b m k r e"],
        values: Float[Tensor, "b m k r e"],
        image_index: Int[Tensor, "bn t"],
    ) -> Float[Tensor, "bn t d"]:
        """Returns the hidden states with what they take from the images.

        ``hidden`` and ``image_index`` may hold n rows per document (beams), which share its images.
        """
        x = hidden.to(self.norm.weight.dtype)
        attended = self._cross_attention(x, keys, values, image_index)
        x = x + _gated(self.attention_gate, self.dropout(attended))
        if self.feedforward is not None:
            x = x + _gated(self.feedforward_gate, self.dropout(self.feedforward(x)))
        return x.to(hidden.dtype)

    def _cross_attention(self, x: Tensor, keys: Tensor, values: Tensor, image_index: Tensor) -> Tensor:
        b, m = keys.shape[:2]
        if m == 0:
            return torch.zeros_like(x)
        queries = rearrange(self.attention.queries(self.norm(x)), "(b n) k t e -> b n t k e", b=b)
        index = rearrange(image_index, "(b n) t -> b n t", b=b)
        if m > 1 and self.grouped:
            # Recomputed in the backward pass: the keys and values of all groups are many times those of the images.
            attended = checkpointed(grouped_attention, queries, keys, values, index)
        else:
            attended = masked_attention(queries, keys, values, visible_images(index, m, self.attend))
        attended = self.attention.output(rearrange(attended, "b n t k e -> (b n) k t e"))
        # Tokens without an image attended to an arbitrary one, to avoid NaN in the softmax: zero them here.
        return attended.where((image_index >= 0).unsqueeze(-1), 0.0)


def masked_attention(
    queries: Float[Tensor, "b n t k e"],
    keys: Float[Tensor, "b m k r e"],
    values: Float[Tensor, "b m k r e"],
    visible: Bool[Tensor, "b n t m"],
) -> Float[Tensor, "b n t k e"]:
    """Returns the attention output of each token over all of its visible images, by t * m * r scores.

    The output of a token without a visible image is arbitrary, but finite.
    """
    n, m = visible.shape[1], visible.shape[3]
    visible = visible | ~visible.any(dim=-1, keepdim=True)
    mask = None if m == 1 else repeat(visible, "b n t m -> b 1 (n t) (m r)", r=keys.shape[3])
    queries = rearrange(queries, "b n t k e -> b k (n t) e")
    keys = rearrange(keys, "b m k r e -> b k (m r) e")
    values = rearrange(values, "b m k r e -> b k (m r) e")
    attended = attend(queries, keys, values, mask)
    return rearrange(attended, "b k (n t) e -> b n t k e", n=n)


def visible_images(image_index: Int[Tensor, "*tokens"], images: int, attend: str) -> Bool[Tensor, "*tokens m"]:
    """Returns which images a token attends to: that of its index ("last"), or also all before it ("previous")."""
    index = image_index.unsqueeze(-1)
    image = torch.arange(images, device=index.device)
    return index == image if attend == "last" else index >= image


def seen_images(
    image_index: Int[Tensor, "bn t"], documents: int, images: int, attend: str
) -> Bool[Tensor, "documents images"]:
    """Returns which images at least one token of their document attends to, in any of its rows."""
    rows = rearrange(image_index, "(b n) t -> b (n t)", b=documents)
    return visible_images(rows, images, attend).any(dim=1)


def _gated(gate: Tensor | None, x: Tensor) -> Tensor:
    return x if gate is None else torch.tanh(gate) * x


# ------------------------------------------------------------------ blocks within a language model


@dataclass(frozen=True)
class VisualContext:
    """The images of one forward pass, and which of them each text token sees."""

    state: VisualState
    image_index: Tensor  # [bn t]


class Splice:
    """The hooks on a language model, and the context of the current forward pass."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        blocks: nn.ModuleDict,
        new_tokens: NewTokenEmbeddings,
    ) -> None:
        """``blocks`` has the gated block of a layer under the index of the layer."""
        self._context: VisualContext | None = None
        #: The hooks that ran in the current forward pass: indices of layers, and "head".
        self._called: set[str] = set()
        self._name = type(language_model).__name__
        self._width = language_model.config.hidden_size
        self._blocks = blocks
        layers = repeated_layers(language_model)
        for position, index in enumerate(blocks):
            hook = partial(self._before_layer, position, index)
            layers[int(index)].register_forward_pre_hook(hook, with_kwargs=True)
        language_model.get_output_embeddings().register_forward_hook(partial(self._after_head, new_tokens))

    @contextmanager
    def forward_pass(self, context: VisualContext) -> Iterator[None]:
        """:meth:`attached` for exactly one forward pass of the language model.

        Raises:
            UserError: If the hook of a layer or of the head did not run. The model would work without that block.
        """
        outer_called = self._called
        self._called = set()
        try:
            with self.attached(context):
                yield
            missing = [index for index in self._blocks if index not in self._called]
            if missing or "head" not in self._called:
                raise UserError(
                    f"{self._name} did not call {_modules(missing, 'head' not in self._called)} as the module that the "
                    "gated blocks are attached to: the layer was skipped, replaced, or called through another module"
                )
        finally:
            self._called = outer_called

    @contextmanager
    def attached(self, context: VisualContext | None) -> Iterator[None]:
        """Within it, the tokens of the language model attend to the images of ``context``."""
        outer_context = self._context
        self._context = context
        try:
            yield
        finally:
            self._context = outer_context

    def checkpointing(self, checkpoint: Callable) -> Callable:
        """Returns ``checkpoint`` that recomputes a layer in the context of its own forward pass.

        At the time of the backward pass that context has ended, or another forward pass has begun.
        """
        return partial(self._checkpointed, checkpoint)

    def _checkpointed(self, checkpoint: Callable, layer: Callable, *args: Any) -> Any:
        return checkpoint(partial(self._run_attached, self._context, layer), *args)

    def _run_attached(self, context: VisualContext | None, layer: Callable, *args: Any) -> Any:
        with self.attached(context):
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
        # Looked up at each call, so that a replaced or wrapped block is the one that acts.
        hidden = self._blocks[index](hidden, keys, values, self._context.image_index)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden}

    def _after_head(
        self, new_tokens: NewTokenEmbeddings, head: nn.Module, args: tuple, logits: Tensor
    ) -> Tensor | None:
        if self._context is None:
            return None
        self._called.add("head")
        if logits.ndim != 3:
            raise UserError(f"{self._name} gives its output head hidden states of shape {list(args[0].shape)}")
        return new_tokens.extend_logits(logits, args[0])


def _modules(layers: list[str], head: bool) -> str:
    """Returns the names of modules for an error: "layer 1, 3 and the output head"."""
    names = []
    if layers:
        names.append(f"layer {', '.join(layers)}")
    if head:
        names.append("the output head")
    return " and ".join(names)
