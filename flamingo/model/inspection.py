"""What happens inside the model during one forward pass: attention weights, visual tokens, gates.

Attention runs in fused kernels, which never hold the weights. Hooks that last for one call catch what goes into them,
and the weights are computed again from that; the model itself knows nothing of being watched.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from flamingo.model.attention import Attention, attention_weights
from flamingo.model.fusion.cross_attention import GatedCrossAttentionBlock, seen_images, visible_images
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.vision import encode_patches

#: What a forward hook is told: the module, its arguments, its output.
Call = tuple[Any, tuple, Tensor]


@dataclass(frozen=True)
class Inspection:
    """One forward pass, from the pictures to the logits; layers are those of the language model, by index."""

    #: What the model returned.
    outputs: CausalLMOutputWithPast
    #: [b m r v], 0 for images that no token sees. None where the images came as ``visual_state``, or there are none.
    visual_tokens: Tensor | None
    #: [b m k r s] for each layer of the connector: its latents over the patches of all frames and then, in the last r
    #: of the s places, over the latents themselves. None where it was not run, empty where it attends to nothing.
    connector_attention: tuple[Tensor, ...] | None
    #: [bn k t m r] for each gated layer: sums to 1 over what a token sees, is 0 for other images, and 0 altogether for
    #: a token that sees none.
    cross_attention: dict[int, Tensor]
    #: [1] or [d] for each "<layer>.attention" and "<layer>.feedforward": tanh of the gate, by which their outputs are
    #: multiplied; none where there are no gates.
    gates: dict[str, Tensor]

    @property
    def latents_over_patches(self) -> Float[Tensor, "b m r p"]:
        """:func:`rollout` of the connector; ``p`` counts the patches of all frames.

        Raises ValueError where the connector was not run.
        """
        if self.connector_attention is None or self.visual_tokens is None:
            raise ValueError("only images that are given as pixel_values or image_features have patches to look at")
        if self.connector_attention:
            return rollout(self.connector_attention)
        b, m, r, _ = self.visual_tokens.shape  # each token is made of its own patch
        return repeat(torch.eye(r).to(self.visual_tokens), "r p -> b m r p", b=b, m=m)

    def words_over_patches(self, layer: int) -> Float[Tensor, "b k t m p"]:
        """Cross-attention of a layer, carried on from the visual tokens to the patches that these attended to.

        A map of where a word's information can have come from, and not of what it made of it. Weights say how wide
        a way is, not whether anything passed it: values may be small, or cancel. A patch's features hold more than
        its own pixels, up to the whole picture: see :func:`receptive_fields`. And words tell each other: what an
        earlier token or layer has seen reaches a word by the language model's own attention, which is not in the map.
        Rows sum to less than 1 where the rest ends in the learned latents, which know nothing of the picture.
        """
        latents = self.latents_over_patches
        cross = self.cross_attention[layer]
        if len(cross) != len(latents):
            raise ValueError(f"{len(cross)} rows of text share the images of {len(latents)} documents: inspect one")
        return einsum(cross, latents, "b k t m r, b m r p -> b k t m p")


def inspect(model: FlamingoForConditionalGeneration, **inputs: Any) -> Inspection:
    """``model(**inputs)``, watched: its outputs are bit for bit those of the model called by itself."""
    blocks: list[Call] = []
    attentions: list[Call] = []
    connectors: list[Call] = []
    with ExitStack() as hooks:

        def watch(module: nn.Module, calls: list[Call]) -> None:
            hooks.enter_context(module.register_forward_hook(lambda *call: calls.append(call)))

        for block in model.gated_layers.values():
            watch(block, blocks)
        for module in model.connector.modules():
            if isinstance(module, Attention):
                watch(module, attentions)
        watch(model.connector, connectors)
        outputs = model(**inputs)

    visual_tokens, connector_attention = inputs.get("visual_tokens"), None
    if connectors:
        _, (_, keys, _, image_index), _ = blocks[0]
        documents, images = keys.shape[:2]
        seen = seen_images(image_index, documents, images, model.config.fusion.attend)
        visual_tokens = _per_image(connectors[0][-1].flatten(0, 1), seen)
        connector_attention = tuple(_per_image(_connector_attention(*call), seen) for call in attentions)
    gates = [(name, gate) for name, gate in model.gated_layers.named_parameters() if name.endswith("_gate")]
    return Inspection(
        outputs,
        visual_tokens,
        connector_attention,
        {int(index): _cross_attention(*call) for index, call in zip(model.gated_layers, blocks, strict=True)},
        {name.removesuffix("_gate"): gate.detach().tanh() for name, gate in gates},
    )


@torch.no_grad()
def _connector_attention(attention: Attention, args: tuple, output: Tensor) -> Float[Tensor, "images k r s"]:
    x, keys, _ = args
    return attention_weights(attention.queries(x), keys)


@torch.no_grad()
def _cross_attention(block: GatedCrossAttentionBlock, args: tuple, output: Tensor) -> Float[Tensor, "bn k t m r"]:
    hidden, keys, _, image_index = args
    b, m, _, r, _ = keys.shape
    queries = block.attention.queries(block.norm(hidden.to(block.norm.weight.dtype)))
    visible = repeat(visible_images(image_index, m, block.attend), "(b n) t m -> b 1 (n t) (m r)", b=b, r=r)
    weights = attention_weights(
        rearrange(queries, "(b n) k t e -> b k (n t) e", b=b), rearrange(keys, "b m k r e -> b k (m r) e"), visible
    )
    return rearrange(weights, "b k (n t) (m r) -> (b n) k t m r", t=hidden.shape[1], r=r)


def _per_image(found: Float[Tensor, "images ..."], seen: Bool[Tensor, "b m"]) -> Float[Tensor, "b m ..."]:
    """What was computed for the images that some token sees, at their places; zeros for the others."""
    return found.new_zeros(*seen.shape, *found.shape[1:]).index_put((seen,), found)


@torch.no_grad()
def rollout(attention: Sequence[Float[Tensor, "b m k r s"]]) -> Float[Tensor, "b m r p"]:
    """Share of each patch in each latent behind a connector: attention rollout (arXiv 2005.00928).

    In each layer half of a latent is what it was, and half what it attends to, all heads alike. Attention to latents
    counts for what these hold of the patches by then. Before the first layer of a Perceiver that is nothing, so its
    rows sum to less than 1; latents that are the patches themselves, as in a transformer, begin as their own.
    """
    b, m, _, r, s = attention[0].shape
    p = s - r or r
    held = attention[0].new_zeros(b, m, r, p) + (torch.eye(r).to(attention[0]) if s == r else 0)
    for weights in attention:
        weights = weights.mean(dim=2)
        found = weights[..., -r:] @ held
        held = (held + found + (0 if s == r else weights[..., :p])) / 2
    return held


def receptive_fields(
    model: FlamingoForConditionalGeneration, pixel_values: Float[Tensor, "images c h w"]
) -> Float[Tensor, "p h w"]:
    """How much each pixel counts in each patch's features: effective receptive fields (arXiv 1701.04128), of sum 1.

    A patch of a convolutional network need not lie where its cell of the grid does: a ResNet's pads each stride on
    both sides, which moves it up and to the left by half a cell. And no encoder's patch is made of its cell alone.

    These are squared gradients of the features, projected at random, summed over the pictures; a dozen tells enough.
    There is a backward pass through the encoder for each patch.
    """
    pixels = pixel_values.detach().clone().requires_grad_()
    with torch.enable_grad():
        features = encode_patches(model.vision_model, pixels, model.config.vision_features)
        projection = torch.randn(len(features), features.shape[2], generator=torch.Generator().manual_seed(0))
        projected = einsum(features, projection.to(features), "images p v, images v -> p")
        gradients = [torch.autograd.grad(patch, pixels, retain_graph=True)[0] for patch in projected]
    fields = reduce(torch.stack(gradients).square(), "p images c h w -> p h w", "sum")
    return fields / fields.sum(dim=(1, 2), keepdim=True)


@contextmanager
def without_layers(model: FlamingoForConditionalGeneration, layers: Collection[int]) -> Iterator[None]:
    """Within, the gated blocks of these layers pass on what they are given, as if their gates were closed.

    Raises ValueError for a layer of the language model that has no block.
    """
    with ExitStack() as hooks:
        for layer in layers:
            if str(layer) not in model.gated_layers:
                raise ValueError(f"layer {layer} has no gated block; these have: {', '.join(model.gated_layers)}")
            block = model.gated_layers[str(layer)]
            hooks.enter_context(block.register_forward_hook(lambda block, args, output: args[0]))
        yield
