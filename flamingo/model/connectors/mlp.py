"""MLP on each patch: one visual token per patch.

Flamingo (arXiv 2204.14198), section 3.3, compares the Perceiver Resampler with an MLP.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.model.attention import FeedForward
from flamingo.model.connectors import MLPConfig
from flamingo.model.connectors.patches import single_frame


class MLPConnector(nn.Module):
    """Passes each patch through ``config.depth`` residual feed-forwards."""

    def __init__(self, config: MLPConfig, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.width = vision_width
        self.layers = nn.ModuleList(
            FeedForward(nn.LayerNorm(vision_width), vision_width, config.mlp_ratio * vision_width, config.activation)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(vision_width)
        self.dropout = nn.Dropout(config.dropout)

    def reset_parameters(self) -> None:
        """Does nothing: the layers initialise their own parameters."""

    def num_tokens(self, patches: int, frames: int) -> int:
        """Returns the number of visual tokens of an image."""
        return patches

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m p v"]:
        """Returns the visual tokens of every image.

        Raises:
            UserError: For several frames.
        """
        b, m = features.shape[:2]
        x = self.dropout(single_frame(features))
        for layer in self.layers:
            x = x + self.dropout(layer(x))
        return rearrange(self.norm(x), "(b m) p v -> b m p v", b=b, m=m)
