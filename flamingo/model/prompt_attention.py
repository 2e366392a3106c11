"""Attention of the last token of prompts, in gated blocks and in the language model's own layers.

The other tokens of the prompts run first and fill a cache. The last token then runs without fused kernels, which would
hide its weights: no layer ever has the weights of all tokens.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from flamingo.model.fusion.gated_block import GatedCrossAttentionBlock, visible_images
from flamingo.model.inspection import cross_attention, eager_attention, gated_blocks, recorded
from flamingo.model.layers import repeated_layers
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.utils.devices import HOST

#: Weights over positions sum to 1, in 16 bits up to this difference. Other weights are no softmax over positions.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class PromptAttention:
    """The attention of the last token of each prompt, means over heads, on the host.

    Layers are those of the language model, by index.
    """

    #: Index of a gated layer -> the entropy of a head's weights over the visual tokens that the token attends to,
    #: divided by the log of their number. NaN for one visual token.
    gated_entropy: dict[int, Float[Tensor, " bn"]]
    #: Index of a gated layer -> the norm of tanh(gate) times the output of the attention, divided by the norm of the
    #: hidden state that it is added to.
    gated_norm: dict[int, Float[Tensor, " bn"]]
    #: Index of a layer -> the weights over the positions of the prompt; 0 at padding. Layers without softmax attention
    #: are left out.
    self_attention: dict[int, Float[Tensor, "bn t"]]


@torch.no_grad()
def prompt_attention(
    model: FlamingoForConditionalGeneration, inputs: Mapping[str, Shaped[Tensor, "..."]]
) -> PromptAttention:
    """Returns the attention of the last token of each prompt.

    Args:
        model: The model, in evaluation mode.
        inputs: ``input_ids``, ``attention_mask`` and ``image_index`` of prompts that are padded on the left, and the
            ``visual_tokens`` of their images. The last token of each prompt sees an image.
    """
    blocks = gated_blocks(model)
    projections = [block.attention.to_out for block in blocks.values()]
    block_calls: list[Any] = []
    projection_calls: list[Any] = []
    weights: dict[int, Float[Tensor, "bn t"]] = {}
    length = inputs["input_ids"].shape[1]
    run = partial(_run, model, inputs, model.visual_state(inputs["visual_tokens"]))
    cache = run(slice(length - 1), use_cache=True).past_key_values if length > 1 else None
    start = 0 if cache is None else length - 1
    with (
        eager_attention(model.language_model),
        recorded(blocks.values(), block_calls),
        recorded(projections, projection_calls),
        _recorded_weights(model.language_model, length, weights),
    ):
        run(slice(start, length), past_key_values=cache)
    gated_entropy = {}
    gated_norm = {}
    self_attention = {layer: layer_weights.to(HOST) for layer, layer_weights in weights.items()}
    for index, block_call, projection_call in zip(blocks, block_calls, projection_calls, strict=True):
        block, args, _ = block_call
        gated_entropy[int(index)] = _entropy(block, args).to(HOST)
        gated_norm[int(index)] = _relative_norm(block, args, projection_call[2]).to(HOST)
    return PromptAttention(gated_entropy, gated_norm, self_attention)


def _run(
    model: FlamingoForConditionalGeneration, inputs: Mapping[str, Tensor], state: Any, tokens: slice, **kwargs: Any
) -> Any:
    """Returns the model's outputs for some tokens of the prompts, whose earlier tokens are in the cache."""
    ids, image_index = inputs["input_ids"], inputs["image_index"]
    visual_index = model.fusion.visual_index(ids, image_index, state, check=False)
    return model(
        input_ids=ids[:, tokens],
        attention_mask=inputs["attention_mask"][:, : tokens.stop],
        image_index=image_index[:, tokens],
        visual_index=None if visual_index is None else visual_index[:, tokens],
        visual_state=state,
        logits_to_keep=1,
        **kwargs,
    )


@contextmanager
def _recorded_weights(language_model: PreTrainedModel, length: int, weights: dict[int, Tensor]) -> Iterator[None]:
    """Puts the last token's weights in each layer of the block's forward pass into ``weights``, padded to ``length``.

    An attention module of transformers returns its output and its weights.
    """

    def record(index: int, module: nn.Module, args: tuple, output: Any) -> None:
        if index in weights or not isinstance(output, tuple):
            return
        for value in output[1:]:
            last = _last_weights(value, length)
            if last is not None:
                weights[index] = last

    with ExitStack() as hooks:
        for index, layer in enumerate(repeated_layers(language_model)):
            for module in layer.modules():
                hooks.enter_context(module.register_forward_hook(partial(record, index)))
        yield


def _last_weights(value: Any, length: int) -> Float[Tensor, "bn t"] | None:
    """Returns the last token's weights over positions, mean over heads; None if the value has no such weights."""
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[-1] > length:
        return None
    by_head = value[:, :, -1].float()
    total = by_head.sum(dim=-1)
    if (by_head < 0).any() or ((total - 1).abs() > _TOLERANCE).any():
        return None
    mean = (by_head / total.unsqueeze(-1)).mean(dim=1)
    # A sliding window has the last positions only.
    return F.pad(mean, (length - mean.shape[1], 0))


def _entropy(block: GatedCrossAttentionBlock, args: tuple) -> Float[Tensor, " bn"]:
    image_index = args[3]
    weights = cross_attention(block, args)[:, :, -1]
    images, tokens_per_image = weights.shape[-2:]
    visible = visible_images(image_index[:, -1], images, block.attend).sum(dim=-1)
    entropies = torch.special.entr(weights).sum(dim=(-2, -1))
    return entropies.mean(dim=1) / (visible * tokens_per_image).log()


def _relative_norm(
    block: GatedCrossAttentionBlock, args: tuple, attended: Float[Tensor, "bn t d"]
) -> Float[Tensor, " bn"]:
    hidden = args[0][:, -1].float()
    added = attended[:, -1].float()
    if block.attention_gate is not None:
        added = torch.tanh(block.attention_gate.float()) * added
    return added.norm(dim=-1) / hidden.norm(dim=-1)
