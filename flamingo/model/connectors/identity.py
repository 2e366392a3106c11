"""No connector: the normalised patches are the visual tokens."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.model.connectors import IdentityConfig
from flamingo.model.connectors.patches import single_frame


class IdentityConnector(nn.Module):
    """Normalises the patches of each image."""

    def __init__(self, config: IdentityConfig, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.width = vision_width
        self.norm = nn.LayerNorm(vision_width)

    def reset_parameters(self) -> None:
        """Does nothing: the norm initialises its own parameters."""

    def num_tokens(self, patches: int, frames: int) -> int:
        """Returns the number of visual tokens of an image."""
        return patches

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m p v"]:
        """Returns the visual tokens of every image.

        Raises:
            UserError: For several frames.
        """
        b, m = features.shape[:2]
        return rearrange(self.norm(single_frame(features)), "(b m) p v -> b m p v", b=b, m=m)
