"""Linear map of each patch to the width of the language model: one visual token per patch.

Source: Frozen (arXiv 2106.13884), section 3, and LLaVA (arXiv 2304.08485), section 4.1.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.model.connectors import LinearConfig
from flamingo.model.connectors.patches import single_frame


class LinearConnector(nn.Module):
    """Maps each patch to a visual token as wide as the language model's embeddings."""

    def __init__(self, config: LinearConfig, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.width = text_width
        self.projection = nn.Linear(vision_width, text_width)

    def reset_parameters(self) -> None:
        """Does nothing: the linear map initialises its own parameters."""

    def num_tokens(self, patches: int, frames: int) -> int:
        """Returns the number of visual tokens of an image."""
        return patches

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m p d"]:
        """Returns the visual tokens of every image.

        Raises:
            UserError: For several frames.
        """
        b, m = features.shape[:2]
        tokens = self.projection(single_frame(features))
        return rearrange(tokens, "(b m) p d -> b m p d", b=b, m=m)
