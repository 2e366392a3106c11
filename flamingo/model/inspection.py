"""Inspection of one forward pass: attention weights, visual tokens, gates.

Fused attention kernels never store the attention weights. Hooks that last for one call record the inputs of attention,
and this module recomputes the weights from them. The model contains no code for inspection.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from flamingo.model.attention import Attention, attention_weights
from flamingo.model.connectors.mlp_projector import MLPProjector
from flamingo.model.fusion.cross_attention import CrossAttentionFusion
from flamingo.model.fusion.gated_block import GatedCrossAttentionBlock, visible_images
from flamingo.model.fusion.prefix import PrefixFusion
from flamingo.model.fusion.visual_index import index_of_markers
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.vision import encode_patches

#: The arguments of a forward hook: the module, its arguments, its output.
Call = tuple[Any, tuple, Tensor]


@dataclass(frozen=True)
class Inspection:
    """The results of one forward pass. Layers are those of the language model, by index."""

    #: The outputs of the model.
    outputs: CausalLMOutputWithPast
    #: 0 for images that no token sees. None without images, and for images given as ``visual_state``.
    visual_tokens: Float[Tensor, "b m r width"] | None
    #: Each attention of the connector: of its latents over the patches of all frames and then, in the last r of the s
    #: columns, over the latents. Columns that a layer does not attend to are 0. A transformer, whose latents are the
    #: patches, has r columns. None if the connector did not run, empty if it has no attention.
    connector_attention: tuple[Float[Tensor, "b m connector_heads r s"], ...] | None
    #: The number of patches of all frames of an image. None if the connector did not run.
    num_patches: int | None
    #: Index of a layer -> its attention to visual tokens. For gated cross-attention, each gated layer: it sums to 1
    #: over the images that a token sees, and is 0 for other images. For a visual prefix, every layer: the part of the
    #: language model's own attention that goes to visual tokens.
    image_attention: dict[int, Float[Tensor, "bn k t m r"]]
    #: "<layer>.attention" or "<layer>.feedforward" -> the tanh of its gate, [1] or [d], which multiplies its output.
    #: Empty if there are no gates.
    gates: dict[str, Float[Tensor, " channels"]]
    #: The share of each patch in each visual token of a connector that averages patches; otherwise None.
    patch_shares: Float[Tensor, "r p"] | None = None

    @property
    def latents_over_patches(self) -> Float[Tensor, "b m r p"]:
        """The :func:`rollout` of the connector; ``p`` counts the patches of all frames.

        Raises:
            ValueError: If the connector did not run, or mixes patches in another way than by attention.
        """
        if self.connector_attention is None or self.visual_tokens is None:
            raise ValueError("only images that are given as pixel_values or image_features have patches")
        if self.connector_attention:
            return rollout(self.connector_attention)
        b, m, r, _ = self.visual_tokens.shape
        if self.patch_shares is not None:
            return repeat(self.patch_shares, "r p -> b m r p", b=b, m=m)
        if r != self.num_patches:
            raise ValueError(f"the connector makes {r} visual tokens of {self.num_patches} patches without attention")
        # Each token is made from its own patch.
        return repeat(torch.eye(r).to(self.visual_tokens), "r p -> b m r p", b=b, m=m)

    def words_over_patches(self, layer: int) -> Float[Tensor, "b k t m p"]:
        """Returns the attention of a layer over patches: through the visual tokens to the patches they attend to.

        The map shows where a word's information can come from, not how the word uses it. A weight does not measure
        information: values may be small, or cancel. A patch's features depend on more than its own pixels, up to the
        whole image (:func:`receptive_fields`). The map leaves out the language model's own attention, which brings a
        word information that earlier tokens and layers have seen. Rows sum to less than 1 if a part of the attention
        ends in the learned latents, which do not depend on the image.

        Raises:
            ValueError: If several rows of text share the images of a document.
        """
        latents = self.latents_over_patches
        attention = self.image_attention[layer]
        if len(attention) != len(latents):
            raise ValueError(f"{len(attention)} rows of text share the images of {len(latents)} documents: inspect one")
        return einsum(attention, latents, "b k t m r, b m r p -> b k t m p")


def inspect(model: FlamingoForConditionalGeneration, **inputs: Any) -> Inspection:
    """Returns the inspection of ``model(**inputs)``. The outputs are bit for bit those without inspection."""
    attention_modules = [module for module in model.connector.modules() if isinstance(module, Attention)]
    blocks = gated_blocks(model)
    block_calls: list[Call] = []
    attention_calls: list[Call] = []
    connector_calls: list[Call] = []
    with (
        recorded(blocks.values(), block_calls),
        recorded(attention_modules, attention_calls),
        recorded([model.connector], connector_calls),
    ):
        outputs = model(**inputs)
    visual_tokens = inputs.get("visual_tokens")
    connector_attention = num_patches = None
    if connector_calls:
        given = inputs["pixel_values"] if "pixel_values" in inputs else inputs["image_features"]
        documents, images = given.shape[:2]
        seen = model.fusion.seen_images(inputs["image_index"], documents, images)
        _, (features,), connector_output = connector_calls[0]
        num_patches = features.shape[2] * features.shape[3]
        visual_tokens = _per_image(connector_output.flatten(0, 1), seen)
        weights = [_connector_attention(attention, args, num_patches) for attention, args, _ in attention_calls]
        connector_attention = tuple(_per_image(layer_weights, seen) for layer_weights in weights)
    patch_shares = None
    if num_patches is not None and isinstance(model.connector, MLPProjector):
        patch_shares = model.connector.patch_shares(num_patches)
    image_attention = {}
    for index, (block, args, _) in zip(blocks, block_calls, strict=True):
        image_attention[int(index)] = cross_attention(block, args)
    if isinstance(model.fusion, PrefixFusion) and visual_tokens is not None:
        image_attention = _attention_to_prefix(model, inputs, visual_tokens)
    gates = model.fusion.gates() if isinstance(model.fusion, CrossAttentionFusion) else {}
    return Inspection(outputs, visual_tokens, connector_attention, num_patches, image_attention, gates, patch_shares)


def gated_blocks(model: FlamingoForConditionalGeneration) -> dict[str, Any]:
    """Returns index of a layer -> its gated block; empty for another fusion than gated cross-attention."""
    return dict(model.fusion.blocks.items()) if isinstance(model.fusion, CrossAttentionFusion) else {}


@contextmanager
def recorded(modules: Iterable[nn.Module], calls: list[Call]) -> Iterator[None]:
    """Appends the forward calls of these modules in the block to ``calls``."""

    def record(module: nn.Module, args: tuple, output: Tensor) -> None:
        calls.append((module, args, output))

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(record))
        yield


@torch.no_grad()
def _connector_attention(attention: Attention, args: tuple, num_patches: int) -> Float[Tensor, "images k r s"]:
    """Returns the weights over patches and latents, also of a layer that attends to one of the two."""
    x, keys, _ = args
    weights = attention_weights(attention.queries(x), keys)
    if attention.context == "latents":
        return nn.functional.pad(weights, (num_patches, 0))
    if attention.context == "patches":
        return nn.functional.pad(weights, (0, x.shape[1]))
    return weights


@torch.no_grad()
def cross_attention(block: GatedCrossAttentionBlock, args: tuple) -> Float[Tensor, "bn k t m r"]:
    """Returns the weights over visual tokens, given the arguments of a gated block."""
    hidden, keys, _, image_index, _ = args
    b, m, _, r, _ = keys.shape
    queries = block.attention.queries(block.norm(hidden.to(block.norm.weight.dtype)))
    visible = repeat(visible_images(image_index, m, block.attend), "(b n) t m -> b 1 (n t) (m r)", b=b, r=r)
    weights = attention_weights(
        rearrange(queries, "(b n) k t e -> b k (n t) e", b=b), rearrange(keys, "b m k r e -> b k (m r) e"), visible
    )
    return rearrange(weights, "b k (n t) (m r) -> (b n) k t m r", t=hidden.shape[1], r=r)


@torch.no_grad()
def _attention_to_prefix(
    model: FlamingoForConditionalGeneration, inputs: dict[str, Any], visual_tokens: Float[Tensor, "b m r width"]
) -> dict[int, Float[Tensor, "bn k t m r"]]:
    """Returns each layer's attention to the positions of visual tokens, by a second pass without fused attention."""
    with eager_attention(model.language_model):
        attentions = model(**inputs, output_attentions=True).attentions
    m, r = visual_tokens.shape[1:3]
    index = index_of_markers(inputs["input_ids"], model.config.image_token_id, r)
    is_seen = (index >= 0) & (inputs["image_index"] >= 0)
    place = torch.where(is_seen, inputs["image_index"] * r + index, m * r)  # text has the last place, after all images
    image_attention = {}
    for layer, weights in enumerate(attentions):
        bn, k, t, _ = weights.shape
        by_place = weights.new_zeros(bn, k, t, m * r + 1)
        by_place.scatter_add_(-1, repeat(place, "bn s -> bn k t s", k=k, t=t), weights)
        image_attention[layer] = rearrange(by_place[..., :-1], "bn k t (m r) -> bn k t m r", r=r)
    return image_attention


@contextmanager
def eager_attention(language_model: PreTrainedModel) -> Iterator[None]:
    """Lets the language model compute attention without fused kernels in the block, so that it has weights."""
    implementation = language_model.config._attn_implementation
    if implementation == "eager" or not language_model._can_set_attn_implementation():
        yield
        return
    language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        language_model.set_attn_implementation(implementation)


def _per_image(values: Float[Tensor, "images ..."], seen: Bool[Tensor, "b m"]) -> Float[Tensor, "b m ..."]:
    """Returns the values of the images that some token sees, at their indices; zeros for the others."""
    return values.new_zeros(*seen.shape, *values.shape[1:]).index_put((seen,), values)


@torch.no_grad()
def rollout(attention: Sequence[Float[Tensor, "b m k r s"]]) -> Float[Tensor, "b m r p"]:
    """Returns the share of each patch in each latent after a connector: attention rollout (arXiv 2005.00928).

    In each layer, half of a latent is its former value and half is what it attends to; all heads count alike. Attention
    to a latent counts as attention to the patches in that latent. The latents of a Perceiver begin without patches, so
    their rows sum to less than 1. The latents of a transformer are the patches (s equals r) and begin as these.
    """
    b, m, _, r, s = attention[0].shape
    latents_are_patches = s == r
    if latents_are_patches:
        share = torch.eye(r).to(attention[0]).expand(b, m, r, r)
    else:
        share = attention[0].new_zeros(b, m, r, s - r)
    for weights in attention:
        weights = weights.mean(dim=2)
        through_latents = weights[..., -r:] @ share
        if latents_are_patches:
            share = (share + through_latents) / 2
        else:
            share = (share + through_latents + weights[..., : s - r]) / 2
    return share


def receptive_fields(
    model: FlamingoForConditionalGeneration, pixel_values: Float[Tensor, "images c h w"]
) -> Float[Tensor, "p h w"]:
    """Returns the weight of each pixel in each patch's features: effective receptive fields (arXiv 1701.04128).

    The field of a patch sums to 1. A patch of a convolutional network may be shifted against its cell of the grid: a
    ResNet pads each stride on both sides, which moves its patches up and to the left by half a cell. The features of a
    patch never depend on its cell alone.

    The fields are squared gradients of randomly projected features, summed over the images; a dozen images are enough.
    Each patch takes a backward pass through the encoder.
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
    """Makes the gated blocks of these layers return their inputs, as if their gates were closed.

    Raises:
        ValueError: For a layer of the language model without a gated block.
    """
    blocks = gated_blocks(model)
    with ExitStack() as hooks:
        for layer in layers:
            if str(layer) not in blocks:
                raise ValueError(f"layer {layer} has no gated block; these have: {', '.join(blocks) or 'none'}")
            block = blocks[str(layer)]
            hooks.enter_context(block.register_forward_hook(lambda block, args, output: args[0]))
        yield
