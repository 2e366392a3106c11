"""Patch features of any image encoder of transformers, by an explicit config."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from flamingo.model.layers import repeated_layers
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.utils.devices import random_devices
from flamingo.utils.errors import UserError

#: The names of the encoders' argument for images.
_PICTURES = ("pixel_values", "image", "hidden_states")
#: Names of the norm that follows an encoder's last block.
_FINAL_NORMS = ("post_layernorm", "layernorm", "norm", "ln_post", "rms_norm", "post_norm")


@dataclass(frozen=True)
class PatchLayout:
    """The order of an encoder's tokens: ``leading`` other tokens, rows x columns patches, ``trailing`` other tokens."""

    leading: int
    rows: int
    columns: int
    trailing: int
    #: Whether the encoder returns its features as a grid of these rows and columns, not as a list of tokens.
    is_grid: bool = False

    @property
    def others(self) -> int:
        """The number of tokens that are not patches."""
        return self.leading + self.trailing

    def patches(self, tokens: Float[Tensor, "images n v"]) -> Float[Tensor, "images p v"]:
        """Returns the patches, in raster order."""
        return tokens[:, self.leading : self.leading + self.rows * self.columns]


def encode_patches(
    encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> Float[Tensor, "images p v"]:
    """Returns the features of every patch (transformers) or grid cell (convolutional networks), in raster order."""
    tokens, layout = encode_tokens(encoder, pixel_values, config)
    return layout.patches(tokens) if config.class_token in ("drop", "auto") else tokens


def encode_tokens(
    encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> tuple[Float[Tensor, "images n v"], PatchLayout]:
    """Returns all tokens of the hidden state that ``config`` names, and their layout.

    Raises:
        UserError: If ``config`` does not fit the encoder; the error names the key.
    """
    states = hidden_state(encoder, pixel_values, config.hidden_state)
    if config.final_norm:
        states = _final_norm(encoder, states)
    if states.ndim == 4:
        tokens, rows, columns = _flat_grid(encoder, states, pixel_values)
        layout = PatchLayout(0, rows, columns, 0, is_grid=True)
    else:
        tokens = _one_row_per_image(encoder, states, len(pixel_values))
        layout = token_layout(encoder, tokens.shape[1], pixel_values, config)
    if config.class_token != "auto" and (config.class_token == "none") != (layout.others == 0):
        name = type(encoder).__name__
        tokens_besides = f"{layout.others} token(s) besides its patches" if layout.others else "none"
        values = "drop or keep" if layout.others else "none"
        raise UserError(
            f"vision_features.class_token is {config.class_token!r}, but {name} has {tokens_besides}: "
            f"set it to {values}"
        )
    return tokens, layout


def token_layout(
    encoder: PreTrainedModel, tokens: int, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> PatchLayout:
    """Returns the layout of ``tokens`` tokens: the patches are the finest grid of whole strides that fits into them.

    The stride is the encoder config's ``patch_stride`` or ``patch_size``, or a multiple of it if patches are merged.
    If the config has neither, the stride is a divisor of the image's height and width.

    Raises:
        UserError: If no grid fits.
    """
    height, width = pixel_values.shape[-2:]
    stated = _pair(encoder.config, "patch_stride") or patch_size(encoder.config)
    patch_height, patch_width = stated or (1, 1)
    most_patches = tokens - config.trailing_tokens
    for multiple in range(1, min(height // patch_height, width // patch_width) + 1):
        stride_height, stride_width = multiple * patch_height, multiple * patch_width
        if stated is None and (height % stride_height or width % stride_width):
            continue
        rows, columns = height // stride_height, width // stride_width
        if rows * columns <= most_patches:
            return PatchLayout(most_patches - rows * columns, rows, columns, config.trailing_tokens)
    raise UserError(
        f"vision_features.trailing_tokens is {config.trailing_tokens}, but {type(encoder).__name__} has {tokens} tokens"
    )


def hidden_state(
    encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], index: int
) -> Float[Tensor, "..."]:
    """Returns the hidden state of ``VisionFeaturesConfig.hidden_state``, in the encoder's own shape."""
    blocks = transformer_blocks(encoder)
    if blocks is None:
        return _stage_output(encoder, pixel_values, index)
    # Capture the state at the blocks: `hidden_states[-1]` and `last_hidden_state` of some encoders include the final
    # norm.
    _check_index(encoder, index, len(blocks) + 1)
    position = index % (len(blocks) + 1)
    captured: list[Any] = []

    def capture_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        captured.append(args[0] if args else next(iter(kwargs.values())))

    def capture_output(module: nn.Module, args: tuple, output: Any) -> None:
        captured.append(output)

    if position == 0:
        handle = blocks[0].register_forward_pre_hook(capture_input, with_kwargs=True)
    else:
        handle = blocks[position - 1].register_forward_hook(capture_output)
    with handle:
        run_encoder(encoder, pixel_values)
    state = captured[0]
    return state[0] if isinstance(state, tuple) else state


def transformer_blocks(encoder: PreTrainedModel) -> nn.ModuleList | None:
    """Returns the encoder's one list of ``num_hidden_layers`` blocks or stages, or None if it has no such list."""
    try:
        return repeated_layers(encoder)
    except UserError:
        return None


def _stage_output(encoder: PreTrainedModel, pixel_values: Tensor, index: int) -> Tensor:
    name = type(encoder).__name__
    # Channels last in memory nearly halves the time of MobileNetV2 on a CPU.
    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
    if index == -1:
        outputs = run_encoder(encoder, pixel_values)
        if getattr(outputs, "last_hidden_state", None) is not None:
            return outputs.last_hidden_state
        if not getattr(outputs, "feature_maps", None):
            raise UserError(f"{name} has no patch features: no last_hidden_state and no feature_maps")
        return outputs.feature_maps[-1]
    states = getattr(run_encoder(encoder, pixel_values, output_hidden_states=True), "hidden_states", None)
    if not states:
        raise UserError(f"{name} returns no hidden_states: set vision_features.hidden_state to -1")
    _check_index(encoder, index, len(states))
    if not isinstance(states[index], Tensor):
        raise UserError(f"hidden state {index} of {name} is not a tensor: set vision_features.hidden_state to -1")
    return states[index]


def run_encoder(encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], **kwargs: Any) -> Any:
    """Returns the encoder's outputs. Position embeddings are interpolated for images of another size than its own."""
    arguments = signature(encoder.forward).parameters
    if "interpolate_pos_encoding" in arguments and pixel_values.shape[-2:] != image_size(encoder.config):
        kwargs["interpolate_pos_encoding"] = True
    return encoder(pixel_values, **kwargs)


def _check_index(encoder: nn.Module, index: int, count: int) -> None:
    if not -count <= index < count:
        raise UserError(
            f"vision_features.hidden_state is {index}, but {type(encoder).__name__} has {count} hidden states: "
            f"set it to -1 for the last, or to less than {count}"
        )


def _final_norm(encoder: nn.Module, states: Tensor) -> Tensor:
    name = type(encoder).__name__
    if states.ndim == 4:
        raise UserError(f"vision_features.final_norm is set, but the features of {name} are a grid: set it to false")
    norms = []
    for child_name, child in encoder.named_children():
        if child_name in _FINAL_NORMS and not isinstance(child, nn.Identity):
            norms.append(child)
    if len(norms) != 1:
        raise UserError(
            f"vision_features.final_norm is set, but {name} has no single norm called {', '.join(_FINAL_NORMS)}: "
            "set it to false"
        )
    return norms[0](states)


def _flat_grid(
    encoder: nn.Module, states: Float[Tensor, "images a b c"], pixel_values: Tensor
) -> tuple[Float[Tensor, "images p v"], int, int]:
    # The grid is [v h w] if its last two axes have the proportions of the image, and otherwise [h w v].
    height, width = pixel_values.shape[-2:]
    _, a, b, c = states.shape
    if _is_grid(b, c, height, width):
        return rearrange(states, "images v h w -> images (h w) v"), b, c
    if _is_grid(a, b, height, width):
        return rearrange(states, "images h w v -> images (h w) v"), a, b
    name = type(encoder).__name__
    raise UserError(f"the features [{a} {b} {c}] of {name} are not a grid of pictures of {height} x {width} pixels")


def _is_grid(rows: int, columns: int, height: int, width: int) -> bool:
    """Returns whether cells of one square stride make ``rows`` x ``columns``, with one more at an uneven border."""
    if height == width:
        return rows == columns
    stride = max(1, round((height * width / (rows * columns)) ** 0.5))
    return abs(rows - height / stride) <= 1 and abs(columns - width / stride) <= 1


def _one_row_per_image(encoder: nn.Module, states: Tensor, images: int) -> Float[Tensor, "images n v"]:
    if states.ndim == 3 and len(states) == 1 and states.shape[1] % images == 0:  # Pixtral: all images in one row
        return rearrange(states, "1 (images n) v -> images n v", images=images)
    if states.ndim != 3 or len(states) != images:
        raise UserError(
            f"{type(encoder).__name__} has a hidden state {list(states.shape)} for {images} pictures, "
            "which is not a list of tokens for each"
        )
    return states


def image_size(config: Any) -> tuple[int, int]:
    """Returns the height and width of the images that an encoder is configured for; 224 if its config has none."""
    timm = getattr(config, "pretrained_cfg", None) or {}
    size = _stated(config, "image_size") or timm.get("input_size") or 224
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def patch_size(config: Any) -> tuple[int, int] | None:
    """Returns the height and width of a patch in pixels; None if the config has none."""
    return _pair(config, "patch_size")


def _pair(config: Any, key: str) -> tuple[int, int] | None:
    value = _stated(config, key)
    if isinstance(value, int):
        return (value, value)
    if value is None or len(value) != 2:  # more than two numbers belong to several stages, or to videos
        return None
    return (value[0], value[1])


def num_channels(config: Any) -> int:
    """Returns the number of channels of the images; 3 if the config has none."""
    return _stated(config, "num_channels") or 3


def _stated(config: Any, key: str) -> Any:
    """Returns the value of ``key`` in a config or in the config of its backbone."""
    value = getattr(config, key, None)
    if value is None:
        return getattr(getattr(config, "backbone_config", None), key, None)
    return value


@torch.no_grad()
def feature_width(encoder: PreTrainedModel, config: VisionFeaturesConfig) -> int:
    """Returns the width v of the features, measured on one blank image, which also checks ``config``.

    Raises:
        UserError: For a model that cannot encode images.
    """
    check_pictures(encoder, *image_size(encoder.config))
    with evaluating(encoder):
        return encode_patches(encoder, _blank(encoder, *image_size(encoder.config)), config).shape[-1]


@torch.no_grad()
def measured_class_token(encoder: PreTrainedModel, config: VisionFeaturesConfig) -> str:
    """Returns drop if the encoder has tokens that are not patches, otherwise none, measured on one blank image."""
    check_pictures(encoder, *image_size(encoder.config))
    with evaluating(encoder):
        _, layout = encode_tokens(encoder, _blank(encoder, *image_size(encoder.config)), config)
    return "drop" if layout.others else "none"


@torch.no_grad()
def num_patches(encoder: PreTrainedModel, config: VisionFeaturesConfig, height: int, width: int) -> int:
    """Returns the number of patches p of an image of this size in pixels, measured on a blank one."""
    with evaluating(encoder):
        return encode_patches(encoder, _blank(encoder, height, width), config).shape[1]


@torch.no_grad()
def check_pictures(encoder: PreTrainedModel, height: int, width: int) -> None:
    """Checks that a model can encode images of this size in pixels.

    Raises:
        UserError: If it cannot.
        MemoryError: If the host is out of memory.
        OutOfMemoryError: If the device is out of memory.
    """
    name = type(encoder).__name__
    pictures, *others = signature(encoder.forward).parameters.values()
    if pictures.name not in _PICTURES:
        raise UserError(f"{name} is not a vision encoder: it takes {pictures.name}, not pixel_values")
    frames = getattr(encoder.config, "num_frames", None)
    if frames:
        raise UserError(f"{name} is not a vision encoder: it takes videos of {frames} frames")
    required = [parameter.name for parameter in others if _is_required(parameter)]
    if required:
        raise UserError(f"{name} needs {', '.join(required)} besides pictures, which is not supported")
    try:
        with evaluating(encoder):
            run_encoder(encoder, _blank(encoder, height, width))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{name} cannot encode pictures of {height} x {width} pixels without other inputs: {reason}"
        ) from error


def _is_required(parameter: Parameter) -> bool:
    named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return named and parameter.default is Parameter.empty


def _blank(encoder: PreTrainedModel, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    channels = num_channels(encoder.config)
    return torch.zeros(1, channels, height, width, dtype=encoder.dtype, device=encoder.device)


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Sets evaluation mode in the block, and restores modes and global generators after it."""
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with torch.random.fork_rng(random_devices(encoder)):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
