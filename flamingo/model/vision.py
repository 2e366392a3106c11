"""Any frozen Hugging Face vision encoder -> patch features, as the config says and never by guess."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.configuration import VisionFeaturesConfig
from flamingo.model.layers import repeated_layers
from flamingo.utils.errors import UserError


def encode_patches(
    encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> Float[Tensor, "images p v"]:
    """Features of every patch (transformers) or every cell of the grid (convolutional networks).

    Raises UserError, naming the key, where ``config`` does not fit the encoder.
    """
    states = _hidden_state(encoder, pixel_values, config.hidden_state)
    if states.ndim == 4:
        if config.final_norm:
            raise UserError(f"vision_features.final_norm is set, but {type(encoder).__name__} is convolutional")
        _check_class_token(encoder, config, others=0)
        return rearrange(states, "images v h w -> images (h w) v")
    if config.final_norm:
        states = _final_norm(encoder)(states)
    patch = getattr(encoder.config, "patch_size", None)
    if patch is None:
        raise UserError(f"{type(encoder).__name__} gives neither a grid nor patches of a config's patch_size")
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    patches = (pixel_values.shape[-2] // patch_height) * (pixel_values.shape[-1] // patch_width)
    others = states.shape[1] - patches
    if others < 0:
        raise UserError(f"{type(encoder).__name__} has {patches} patches, but merges them to {states.shape[1]} tokens")
    _check_class_token(encoder, config, others)
    # The class token and registers come first in every one of the supported encoders.
    return states[:, others:] if config.class_token == "drop" else states


def _hidden_state(encoder: PreTrainedModel, pixel_values: Tensor, index: int) -> Tensor:
    try:
        blocks = repeated_layers(encoder)
    except ValueError:  # convolutional: stages rather than one list of equal blocks
        # On a CPU MobileNetV2 takes little more than half of the time when channels come last in memory.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        outputs = encoder(pixel_values, output_hidden_states=index != -1)
        if index == -1:
            return outputs.last_hidden_state
        _check_index(encoder, index, len(outputs.hidden_states))
        return outputs.hidden_states[index]
    # Captured at the blocks themselves: whether transformers' `hidden_states[-1]` and
    # `last_hidden_state` are taken before or after the final norm differs between encoders.
    _check_index(encoder, index, len(blocks) + 1)
    position = index % (len(blocks) + 1)
    captured: list[Tensor] = []
    if position == 0:
        handle = blocks[0].register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    else:
        handle = blocks[position - 1].register_forward_hook(lambda module, args, output: captured.append(output))
    with handle:
        encoder(pixel_values)
    return captured[0][0] if isinstance(captured[0], tuple) else captured[0]


def _check_index(encoder: nn.Module, index: int, count: int) -> None:
    if not -count <= index < count:
        raise UserError(
            f"vision_features.hidden_state is {index}, but {type(encoder).__name__} has {count} hidden states"
        )


def _check_class_token(encoder: nn.Module, config: VisionFeaturesConfig, others: int) -> None:
    if (config.class_token == "none") != (others == 0):
        has = f"{others} token(s) besides its patches: say keep or drop" if others else "none: say none"
        raise UserError(
            f"vision_features.class_token is {config.class_token!r}, but {type(encoder).__name__} has {has}"
        )


def _final_norm(encoder: nn.Module) -> nn.Module:
    names = ("post_layernorm", "layernorm", "norm", "ln_post")
    found = [module for name, module in encoder.named_children() if name in names]
    if len(found) != 1:
        raise UserError(
            f"vision_features.final_norm is set, but {type(encoder).__name__} has no single norm "
            f"called {', '.join(names)}"
        )
    return found[0]


@torch.no_grad()
def feature_width(encoder: PreTrainedModel, config: VisionFeaturesConfig) -> int:
    """Width v of the chosen features, measured on one blank image; checks ``config`` on the way."""
    if not hasattr(encoder.config, "num_channels"):
        raise UserError(f"{type(encoder).__name__} is no vision encoder: its config has no num_channels")
    size = getattr(encoder.config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    blank = torch.zeros(1, encoder.config.num_channels, height, width, dtype=encoder.dtype, device=encoder.device)
    return encode_patches(encoder, blank, config).shape[-1]
