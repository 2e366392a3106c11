"""A model -> the floating-point operations of a training step, by the sizes of its batches.

A product of matrices [a b] and [b c] has 2abc operations. For each weight and token a step has 2 in the forward pass, 2
more where the gradient of the weight's input is computed, and 2 more where the weight trains: 2, 4 or 6. Operations
that the model does not need, of padding, masked pairs or recomputed activations, are not counted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from flamingo.data.batch_sizes import BatchSizes
from flamingo.model.layers import repeated_layers
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.model.vision import encode_patches, evaluating

#: A layer of one of these types attends to pairs of tokens.
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention", "attention")
#: The configs' names for the experts of a layer that a token passes.
_USED_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
#: The configs' names for all experts of a layer.
_ALL_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class TrainingFlops:
    """The operations of the forward and the backward pass."""

    #: The frozen or trained encoder.
    per_encoded_image: float
    #: The connector, and what the fusion computes of an image's visual tokens.
    per_image: float
    #: The weights of the language model and the fusion, and the attention of a token to its image.
    per_token: float
    #: The language model's attention of one token to another.
    per_token_pair: float

    def of(self, sizes: BatchSizes) -> float:
        """Returns the operations of batches of these sizes."""
        return (
            sizes.encoded_images * self.per_encoded_image
            + sizes.images * self.per_image
            + sizes.tokens * self.per_token
            + sizes.token_pairs * self.per_token_pair
        )


def training_flops(model: FlamingoForConditionalGeneration, pixel_values: Float[Tensor, "1 c h w"]) -> TrainingFlops:
    """Returns the operations of a model's training.

    The operations of the encoder and the connector are measured on one image, as a weight of a convolution acts at
    every position.

    Args:
        model: The model, on its device.
        pixel_values: A blank image of the size that the model trains on.
    """
    encoder, connector, prepare, r = _flops_of_an_image(model, pixel_values)
    passes_connector = _trains(model.vision_model) or _trains(model.connector)
    fusion = _multiple(model.fusion, passes=True)
    # What prepare does not use acts on text.
    weights_on_text = _num_weights(model.fusion) - prepare / (2 * r)
    per_token, per_token_pair = _language_model_flops(model)
    return TrainingFlops(
        per_encoded_image=encoder,
        per_image=connector * _multiple(model.connector, passes_connector) + prepare * fusion,
        per_token=per_token + 2 * weights_on_text * fusion + 3 * model.fusion.attention_flops(r),
        per_token_pair=per_token_pair,
    )


def _flops_of_an_image(
    model: FlamingoForConditionalGeneration, pixel_values: Tensor
) -> tuple[float, float, float, int]:
    """Returns the operations of an image, and the number of its visual tokens.

    Those of the encoder are of forward and backward pass, those of the connector and of ``fusion.prepare`` of the
    forward pass alone.
    """
    encoder = model.vision_model
    pixels = pixel_values.to(encoder.dtype)
    # Other kernels of attention hide their products from the counter, which cannot follow parameters without gradients.
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            features = encode_patches(encoder, pixels, model.config.vision_features)
            if features.requires_grad:
                # Counted too, since the first layer needs no gradient of its input.
                torch.autograd.grad(features.sum(), _trained(encoder), allow_unused=True)
        image_features = rearrange(features.detach(), "m p v -> 1 m 1 p v")
        connector, visual_tokens = _counted(lambda: model.resample(image_features))
        prepare, _ = _counted(lambda: model.visual_state(visual_tokens))
    return float(counter.get_total_flops()), connector, prepare, visual_tokens.shape[2]


def _counted(compute: Callable[[], Any]) -> tuple[float, Any]:
    with FlopCounterMode(display=False) as counter:
        result = compute()
    return float(counter.get_total_flops()), result


def _language_model_flops(model: FlamingoForConditionalGeneration) -> tuple[float, float]:
    """Returns the operations of all weights for a token, and those of attention for a pair of tokens."""
    language_model = model.language_model
    config = language_model.config
    layers = repeated_layers(language_model)
    prefix = next(name for name, module in language_model.named_modules() if module is layers)
    first = 0 if _trains(model.new_tokens) else model.fusion.first_layer
    embeddings = _embedding_weights(language_model)
    per_token = 0.0
    for name, weight in language_model.named_parameters():
        if weight.ndim < 2 or weight in embeddings:
            continue
        layer = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
        passes = layer is None or int(layer[1]) >= first
        used = _used_experts(config) if "experts" in name.split(".") else 1.0
        per_token += 2 * weight.numel() * used * (1 + passes + weight.requires_grad)
    head = model.get_output_embeddings().weight
    per_token += 2 * head.numel() * (2 + head.requires_grad)
    types = getattr(config, "layer_types", None) or ["attention"] * len(layers)
    width = _attention_width(config)
    per_pair = 0.0
    for index, kind in enumerate(types):
        if kind in _ATTENTION_LAYERS:
            # Logits and weighted sum; in the backward pass both factors of each have a gradient.
            per_pair += 4 * width * (3 if index >= first else 1)
    return per_token, per_pair


def _embedding_weights(language_model: PreTrainedModel) -> set[Tensor]:
    """Returns the weights that are looked up, and the head's: it may be tied, and counts by itself."""
    weights: set[Tensor] = {language_model.get_output_embeddings().weight}
    for module in language_model.modules():
        if isinstance(module, nn.Embedding):
            weights.add(module.weight)
    return weights


def _attention_width(config: Any) -> int:
    """Returns the width of all heads together."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_attention_heads * head_dim


def _used_experts(config: Any) -> float:
    """Returns the share of a layer's experts that a token passes."""
    used = next((getattr(config, name) for name in _USED_EXPERTS if hasattr(config, name)), None)
    present = next((getattr(config, name) for name in _ALL_EXPERTS if hasattr(config, name)), None)
    return 1.0 if used is None or present is None else used / present


def _multiple(module: nn.Module, passes: bool) -> float:
    """Returns the operations of forward and backward pass as a multiple of those of the forward pass."""
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad and weight.ndim > 1)
    return 1 + passes + trained / max(1, _num_weights(module))


def _num_weights(module: nn.Module) -> int:
    """Returns the number of the weights that are factors of products."""
    return sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _trains(module: nn.Module) -> bool:
    return len(_trained(module)) > 0
