"""Single-frame features, for the connectors with one visual token per patch."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from flamingo.utils.errors import UserError


def single_frame(features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "images p v"]:
    """Returns the patches of each image.

    Raises:
        UserError: For several frames, which these connectors cannot distinguish.
    """
    frames = features.shape[2]
    if frames > 1:
        raise UserError(f"images have {frames} frames, but only connector.kind=perceiver distinguishes frames")
    return rearrange(features, "b m 1 p v -> (b m) p v")
