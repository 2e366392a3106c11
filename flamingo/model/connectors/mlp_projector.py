"""MLP of each patch to the width of the language model, after an average over neighbouring patches.

Source: LLaVA-1.5 (arXiv 2310.03744), section 3.2: linear map, GELU, linear map, without a norm.
"""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.model.connectors import MLPProjectorConfig
from flamingo.model.connectors.patches import single_frame
from flamingo.utils.errors import UserError


class MLPProjector(nn.Module):
    """Maps each patch, or each square of patches, to a visual token as wide as the language model's embeddings."""

    def __init__(self, config: MLPProjectorConfig, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.width = text_width
        self.pool = config.pool
        self.linear_1 = nn.Linear(vision_width, text_width)
        self.activation = nn.GELU()
        self.linear_2 = nn.Linear(text_width, text_width)

    def reset_parameters(self) -> None:
        """Does nothing: the linear maps initialise their own parameters."""

    def num_tokens(self, patches: int, frames: int) -> int:
        """Returns the number of visual tokens of an image.

        Raises:
            UserError: If the patches do not divide into squares of ``pool`` x ``pool``.
        """
        if self.pool == 1:
            return patches
        return (self._side(patches) // self.pool) ** 2

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m r d"]:
        """Returns the visual tokens of every image, row by row of the grid of patches.

        Raises:
            UserError: For several frames, or if the patches do not divide into squares of ``pool`` x ``pool``.
        """
        b, m = features.shape[:2]
        patches = self._pooled(single_frame(features))
        tokens = self.linear_2(self.activation(self.linear_1(patches)))
        return rearrange(tokens, "(b m) r d -> b m r d", b=b, m=m)

    def patch_shares(self, patches: int) -> Float[Tensor, "r p"]:
        """Returns the share of each patch in each visual token. The shares of a token sum to 1."""
        weight = self.linear_1.weight
        return self._pooled(torch.eye(patches, device=weight.device, dtype=weight.dtype).unsqueeze(0))[0]

    def _pooled(self, patches: Float[Tensor, "images p v"]) -> Float[Tensor, "images r v"]:
        if self.pool == 1:
            return patches
        side = self._side(patches.shape[1])
        grid = rearrange(patches, "images (row column) v -> images row column v", row=side)
        return reduce(grid, "images (row i) (column j) v -> images (row column) v", "mean", i=self.pool, j=self.pool)

    def _side(self, patches: int) -> int:
        """Returns the number of patches in a row of a square grid.

        Raises:
            UserError: If the grid is not square, or ``pool`` does not divide its side.
        """
        side = math.isqrt(patches)
        if side * side != patches or side % self.pool != 0:
            raise UserError(
                f"connector.pool={self.pool} needs a square grid of patches whose side it divides, but images have "
                f"{patches} patches"
            )
        return side
