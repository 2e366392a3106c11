"""Any frozen image encoder of transformers -> patch features, as the config says and never by guess."""

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
from flamingo.utils.errors import UserError

#: What encoders call the pictures that they take.
_PICTURES = ("pixel_values", "image", "hidden_states")
#: Names of the norm that follows an encoder's last block.
_FINAL_NORMS = ("post_layernorm", "layernorm", "norm", "ln_post", "rms_norm", "post_norm")


@dataclass(frozen=True)
class PatchLayout:
    """The order of an encoder's tokens: ``leading`` others, then rows x columns patches, then ``trailing`` others."""

    leading: int
    rows: int
    columns: int
    trailing: int
    #: Whether the encoder's own features have these rows and columns, instead of being a list of tokens.
    is_grid: bool = False

    @property
    def others(self) -> int:
        """Number of tokens that are no patches."""
        return self.leading + self.trailing

    def patches(self, tokens: Float[Tensor, "images n v"]) -> Float[Tensor, "images p v"]:
        """The patches alone, in raster order."""
        return tokens[:, self.leading : self.leading + self.rows * self.columns]


def encode_patches(
    encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> Float[Tensor, "images p v"]:
    """Features of every patch (transformers) or every cell of the grid (convolutional networks), in raster order.

    Raises UserError, naming the key, where ``config`` does not fit the encoder.
    """
    tokens, layout = encode_tokens(encoder, pixel_values, config)
    return layout.patches(tokens) if config.class_token == "drop" else tokens


def encode_tokens(
    encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> tuple[Float[Tensor, "images n v"], PatchLayout]:
    """All tokens of the chosen hidden state, and where the patches are among them."""
    states = hidden_state(encoder, pixel_values, config.hidden_state)
    if config.final_norm:
        states = _final_norm(encoder, states)
    if states.ndim == 4:
        tokens, rows, columns = _flat_grid(encoder, states, pixel_values)
        layout = PatchLayout(0, rows, columns, 0, is_grid=True)
    else:
        tokens = _one_row_per_image(encoder, states, len(pixel_values))
        layout = token_layout(encoder, tokens.shape[1], pixel_values, config)
    if (config.class_token == "none") != (layout.others == 0):
        found = f"{layout.others} token(s) besides its patches" if layout.others else "none"
        fits = "drop or keep" if layout.others else "none"
        raise UserError(
            f"vision_features.class_token is {config.class_token!r}, but {type(encoder).__name__} has {found}: "
            f"set it to {fits}"
        )
    return tokens, layout


def token_layout(
    encoder: PreTrainedModel, tokens: int, pixel_values: Float[Tensor, "images c h w"], config: VisionFeaturesConfig
) -> PatchLayout:
    """Where the patches are among ``tokens`` tokens: the finest grid of whole strides that they can hold.

    The stride is the config's ``patch_stride`` or ``patch_size``, or a multiple of it where patches are merged. Of a
    config without these it is a number that divides the picture.
    """
    height, width = pixel_values.shape[-2:]
    stated = _pair(encoder.config, "patch_stride") or patch_size(encoder.config)
    patch_height, patch_width = stated or (1, 1)
    room = tokens - config.trailing_tokens
    for multiple in range(1, min(height // patch_height, width // patch_width) + 1):
        stride_height, stride_width = multiple * patch_height, multiple * patch_width
        if stated is None and (height % stride_height or width % stride_width):
            continue
        rows, columns = height // stride_height, width // stride_width
        if rows * columns <= room:
            return PatchLayout(room - rows * columns, rows, columns, config.trailing_tokens)
    raise UserError(
        f"vision_features.trailing_tokens is {config.trailing_tokens}, but {type(encoder).__name__} has {tokens} tokens"
    )


def hidden_state(encoder: PreTrainedModel, pixel_values: Float[Tensor, "images c h w"], index: int) -> Tensor:
    """What ``VisionFeaturesConfig.hidden_state`` names, in the encoder's own shape."""
    blocks = transformer_blocks(encoder)
    if blocks is None:
        return _stage_output(encoder, pixel_values, index)
    # Captured at the blocks themselves: whether transformers' `hidden_states[-1]` and
    # `last_hidden_state` are taken before or after the final norm differs between encoders.
    _check_index(encoder, index, len(blocks) + 1)
    position = index % (len(blocks) + 1)
    captured: list[Any] = []
    if position == 0:
        handle = blocks[0].register_forward_pre_hook(
            lambda module, args, kwargs: captured.append(args[0] if args else next(iter(kwargs.values()))),
            with_kwargs=True,
        )
    else:
        handle = blocks[position - 1].register_forward_hook(lambda module, args, output: captured.append(output))
    with handle:
        run_encoder(encoder, pixel_values)
    state = captured[0]
    return state[0] if isinstance(state, tuple) else state


def transformer_blocks(encoder: PreTrainedModel) -> nn.ModuleList | None:
    """The encoder's one list of ``num_hidden_layers`` blocks or stages, or None where it has no such list."""
    try:
        return repeated_layers(encoder)
    except UserError:
        return None


def _stage_output(encoder: PreTrainedModel, pixel_values: Tensor, index: int) -> Tensor:
    name = type(encoder).__name__
    # On a CPU MobileNetV2 takes little more than half of the time when channels come last in memory.
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
        raise UserError(f"hidden state {index} of {name} is no tensor: set vision_features.hidden_state to -1")
    return states[index]


def run_encoder(encoder: PreTrainedModel, pixel_values: Tensor, **kwargs: Any) -> Any:
    """The encoder's own outputs; position embeddings are interpolated where pictures have another size than usual."""
    takes = signature(encoder.forward).parameters
    if "interpolate_pos_encoding" in takes and pixel_values.shape[-2:] != image_size(encoder.config):
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
    found = [module for child, module in encoder.named_children() if child in _FINAL_NORMS]
    norms = [module for module in found if not isinstance(module, nn.Identity)]
    if len(norms) != 1:
        raise UserError(
            f"vision_features.final_norm is set, but {name} has no single norm called {', '.join(_FINAL_NORMS)}: "
            "set it to false"
        )
    return norms[0](states)


# ------------------------------------------------------------------------------- shapes


def _flat_grid(
    encoder: nn.Module, states: Float[Tensor, "images a b c"], pixel_values: Tensor
) -> tuple[Float[Tensor, "images p v"], int, int]:
    """A grid [v h w] or [h w v] as cells in raster order, and its rows and columns.

    Rows and columns are the last two axes if these have the proportions of the picture, else the first two.
    """
    height, width = pixel_values.shape[-2:]
    _, a, b, c = states.shape
    if _is_grid(b, c, height, width):
        return rearrange(states, "images v h w -> images (h w) v"), b, c
    if _is_grid(a, b, height, width):
        return rearrange(states, "images h w v -> images (h w) v"), a, b
    raise UserError(
        f"the features [{a} {b} {c}] of {type(encoder).__name__} are no grid of pictures of {height} x {width} pixels"
    )


def _is_grid(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether cells of one square stride make ``rows`` x ``columns``; at an uneven border there may be one more."""
    if height == width:
        return rows == columns
    stride = max(1, round((height * width / (rows * columns)) ** 0.5))
    return abs(rows - height / stride) <= 1 and abs(columns - width / stride) <= 1


def _one_row_per_image(encoder: nn.Module, states: Tensor, images: int) -> Float[Tensor, "images n v"]:
    if states.ndim == 3 and len(states) == 1 and states.shape[1] % images == 0:  # Pixtral: pictures one after another
        return rearrange(states, "1 (images n) v -> images n v", images=images)
    if states.ndim != 3 or len(states) != images:
        raise UserError(
            f"{type(encoder).__name__} has a hidden state {list(states.shape)} for {images} pictures, "
            "which is no list of tokens for each"
        )
    return states


# ------------------------------------------------------------------------------- configs


def image_size(config: Any) -> tuple[int, int]:
    """Height and width of the pictures that an encoder was configured for; 224 where its config states none."""
    timm = getattr(config, "pretrained_cfg", None) or {}
    size = _stated(config, "image_size") or timm.get("input_size") or 224
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def patch_size(config: Any) -> tuple[int, int] | None:
    """Height and width of a patch, or None where the config states none."""
    return _pair(config, "patch_size")


def _pair(config: Any, key: str) -> tuple[int, int] | None:
    value = _stated(config, key)
    if isinstance(value, int):
        return (value, value)
    # More than two numbers are those of several stages, or of videos.
    return (value[0], value[1]) if value is not None and len(value) == 2 else None


def num_channels(config: Any) -> int:
    return _stated(config, "num_channels") or 3


def _stated(config: Any, key: str) -> Any:
    """The value of ``key`` in a config or in that of its backbone."""
    value = getattr(config, key, None)
    return getattr(getattr(config, "backbone_config", None), key, None) if value is None else value


# ------------------------------------------------------------------------------- measured once


@torch.no_grad()
def feature_width(encoder: PreTrainedModel, config: VisionFeaturesConfig) -> int:
    """Width v of the chosen features, measured on one blank image; checks ``config`` on the way.

    Raises UserError, naming the reason, for a model that cannot encode pictures.
    """
    check_pictures(encoder, *image_size(encoder.config))
    with evaluating(encoder):
        return encode_patches(encoder, _blank(encoder, *image_size(encoder.config)), config).shape[-1]


@torch.no_grad()
def check_pictures(encoder: PreTrainedModel, height: int, width: int) -> None:
    """Raise UserError, naming the reason, for a model that cannot encode pictures of this size."""
    name = type(encoder).__name__
    pictures, *others = signature(encoder.forward).parameters.values()
    if pictures.name not in _PICTURES:
        raise UserError(f"{name} is no vision encoder: it takes {pictures.name}, not pixel_values")
    if frames := getattr(encoder.config, "num_frames", None):
        raise UserError(f"{name} is no vision encoder: it takes videos of {frames} frames")
    if required := [parameter.name for parameter in others if _is_required(parameter)]:
        raise UserError(f"{name} needs {', '.join(required)} besides pictures, which is not supported")
    try:
        with evaluating(encoder):
            run_encoder(encoder, _blank(encoder, height, width))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{name} cannot encode pictures of {height} x {width} pixels, given nothing else: {reason}"
        ) from error


def _is_required(parameter: Parameter) -> bool:
    named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return named and parameter.default is Parameter.empty


def _blank(encoder: PreTrainedModel, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    channels = num_channels(encoder.config)
    return torch.zeros(1, channels, height, width, dtype=encoder.dtype, device=encoder.device)


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Within, the encoder is in evaluation mode, and the global generators are restored afterwards."""
    modes = {module: module.training for module in encoder.modules()}
    devices = sorted({parameter.device for parameter in encoder.parameters() if parameter.is_cuda}, key=str)
    encoder.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
