"""Probe of a vision encoder: random images check that each feature belongs to its patch."""

from dataclasses import replace
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from flamingo.model.vision import (
    PatchLayout,
    check_pictures,
    encode_patches,
    encode_tokens,
    evaluating,
    num_channels,
    patch_size,
    transformer_blocks,
)
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.model.weights_loading import is_quantised
from flamingo.utils.errors import UserError

#: A difference counts above this share of the largest value, in float32 and in 16 bits or quantised.
_TOLERANCE, _TOLERANCE_16_BIT = 1e-4, 2e-2
#: The largest number of cells that may change clearly more than the cell of the changed corner. The cells of a
#: convolutional network may be shifted by half a stride: four cells then share the corner.
_MORE_ALTERED = 3
#: The ratio above which a change is clearly larger than another.
_CLEARLY = 1.25
#: With fewer cells each cell depends on most of the image, and a changed corner proves nothing.
_FEWEST_CELLS = 16


@torch.no_grad()
def check_encoder(
    encoder: PreTrainedModel,
    config: VisionFeaturesConfig,
    image_size: tuple[int, int],
    generator: torch.Generator,
    width: int | None = None,
) -> None:
    """Checks that the features of an encoder belong to the patches of its images.

    A batch of two images must give the features of each image alone. A changed patch must change its own token of the
    input of a transformer's first block, and no other; a changed corner must change its cell of a grid most.

    Args:
        encoder: Any image encoder.
        config: Which of its features are read.
        image_size: Height and width of the images, in pixels.
        generator: Draws the images, on the CPU.
        width: The width v that the features must have; None: any.

    Raises:
        UserError: If the encoder fails a check.
    """
    check_pictures(encoder, *image_size)
    with evaluating(encoder):
        shape = (2, num_channels(encoder.config), *image_size)
        pictures, others = (torch.randn(shape, generator=generator).to(encoder.device, encoder.dtype) for _ in range(2))
        _check_independent(encoder, config, pictures)
        tokens, layout = encode_tokens(encoder, pictures, config)
        if width not in (None, tokens.shape[-1]):
            raise UserError(
                f"vision_width is {width}, but the features of {type(encoder).__name__} are {tokens.shape[-1]} wide"
            )
        patch = patch_size(encoder.config)
        if patch is not None and _reads_patches(encoder, layout, patch, image_size):
            _check_patches(encoder, config, layout, pictures[0], others[0], patch)
        else:
            _check_corners(encoder, config, layout, pictures, others)


def _check_independent(
    encoder: PreTrainedModel, config: VisionFeaturesConfig, pictures: Float[Tensor, "images c h w"]
) -> None:
    together = encode_patches(encoder, pictures, config)
    alone = torch.cat([encode_patches(encoder, picture, config) for picture in pictures.split(1)])
    if not _differ(encoder, together, alone).any():
        return
    name = type(encoder).__name__
    if _differ(encoder, together, encode_patches(encoder, pictures, config)).any():
        raise UserError(f"{name} gives the same picture different features each time: it masks patches at random")
    raise UserError(f"{name} gives two pictures in a batch other features than each alone")


def _reads_patches(
    encoder: PreTrainedModel, layout: PatchLayout, patch: tuple[int, int], image_size: tuple[int, int]
) -> bool:
    """Returns whether the features are those of a ViT: of patches, not of pixels, that its blocks never merge."""
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    return patch != (1, 1) and (layout.rows, layout.columns) == grid and transformer_blocks(encoder) is not None


def _check_patches(
    encoder: PreTrainedModel,
    config: VisionFeaturesConfig,
    layout: PatchLayout,
    picture: Float[Tensor, "c h w"],
    other: Float[Tensor, "c h w"],
    patch: tuple[int, int],
) -> None:
    """Checks that a changed patch changes its own token of the first block's input, and no other.

    Raises:
        UserError: If it does not.
    """
    name = type(encoder).__name__
    pictures = _corners_changed(picture, other, layout, patch)
    tokens, first = encode_tokens(encoder, pictures, replace(config, hidden_state=0, final_norm=False))
    bottom, top = (first.leading + row * layout.columns + column for row, column in _corners(layout))
    altered = _differ(encoder, tokens[0], tokens[1]).any(dim=-1).nonzero().flatten().tolist()
    if altered != [bottom]:
        following = tokens.shape[1] - 1 - max(altered, default=0)
        if len(altered) == 1 and following != config.trailing_tokens:
            raise UserError(
                f"vision_features.trailing_tokens is {config.trailing_tokens}, but {following} tokens of {name} follow "
                f"its patches: set it to {following}"
            )
        raise UserError(
            f"{name} has no grid of patches: a change of the last patch alters {len(altered)} tokens of the first "
            f"block's input, not token {bottom} alone"
        )
    # The patches of some encoders (ViTPose) overlap with those above, so other tokens may also change.
    most = int((tokens[2] - tokens[0]).abs().amax(dim=-1).argmax())
    if most != top:
        raise UserError(
            f"{name} has no grid of patches in rows: a change of the last patch of the first row alters token {most} "
            f"of the first block's input most, not token {top}"
        )


def _check_corners(
    encoder: PreTrainedModel,
    config: VisionFeaturesConfig,
    layout: PatchLayout,
    pictures: Float[Tensor, "images c h w"],
    others: Float[Tensor, "images c h w"],
) -> None:
    """Checks that a changed corner changes its own cell most: bottom right, apart from three others, and top right.

    A change is measured relative to the cell, since padding makes the cells at a border small.

    Raises:
        UserError: If it does not.
    """
    name = type(encoder).__name__
    if layout.rows * layout.columns < _FEWEST_CELLS:
        if layout.is_grid:
            return
        raise UserError(
            f"{name} has no grid of patches: {layout.others + layout.rows * layout.columns} tokens "
            f"for pictures of {pictures.shape[-2]} x {pictures.shape[-1]} pixels"
        )
    stride = (ceil(pictures.shape[-2] / layout.rows), ceil(pictures.shape[-1] / layout.columns))
    changes = torch.zeros(2, layout.rows * layout.columns, device=pictures.device)
    for picture, other in zip(pictures, others, strict=True):
        tokens = encode_tokens(encoder, _corners_changed(picture, other, layout, stride), config)[0]
        cells = layout.patches(tokens).float()
        changes += (cells[1:] - cells[0]).norm(dim=-1) / cells[0].norm(dim=-1).clamp(min=1e-12)
    bottom, top = changes
    more = int((bottom > _CLEARLY * bottom[-1]).sum())
    top_right = top[layout.columns - 1]
    bottom_left = top[(layout.rows - 1) * layout.columns]
    if more > _MORE_ALTERED or bottom[-1] <= _CLEARLY * bottom.median() or top_right <= bottom_left:
        raise UserError(
            f"{name} has no grid of patches: its features are not those of {layout.rows} rows of "
            f"{layout.columns} cells, for a changed corner of a picture alters other cells more than its own"
        )


def _corners(layout: PatchLayout) -> list[tuple[int, int]]:
    """Returns row and column of the bottom right and of the top right cell. No swap of the axes keeps both."""
    return [(layout.rows - 1, layout.columns - 1), (0, layout.columns - 1)]


def _corners_changed(
    picture: Float[Tensor, "c h w"], other: Float[Tensor, "c h w"], layout: PatchLayout, stride: tuple[int, int]
) -> Float[Tensor, "images c h w"]:
    """Returns the picture, and for each corner the picture with its cell taken from ``other``."""
    height, width = stride
    pictures = [picture]
    for row, column in _corners(layout):
        top = min(row * height, picture.shape[-2] - height)
        left = min(column * width, picture.shape[-1] - width)
        changed = picture.clone()
        changed[:, top : top + height, left : left + width] = other[:, top : top + height, left : left + width]
        pictures.append(changed)
    return torch.stack(pictures)


def _differ(encoder: PreTrainedModel, one: Tensor, two: Tensor) -> Tensor:
    """Returns where two results differ by more than the encoder's precision explains."""
    exact = encoder.dtype == torch.float32 and not is_quantised(encoder)
    tolerance = _TOLERANCE if exact else _TOLERANCE_16_BIT
    return (one - two).abs() > tolerance * one.abs().max()
