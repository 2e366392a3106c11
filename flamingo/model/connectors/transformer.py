"""Transformer over the patches of an image: one visual token per patch.

Flamingo (arXiv 2204.14198), section 3.3, compares the Perceiver Resampler with a transformer of unpublished layers.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward, head_norm
from flamingo.model.connectors import TransformerConfig
from flamingo.model.connectors.patches import single_frame


class TransformerLayer(GradientCheckpointingLayer):
    """x += attention(x); x += feedforward(x)."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        qk_norm = head_norm(config.qk_norm_kind) if config.qk_norm else nn.Identity
        self.attention = Attention(width, width, config.num_heads, config.head_dim, qk_norm)
        self.feedforward = FeedForward(nn.LayerNorm(width), width, config.mlp_ratio * width, config.activation)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "images p v"]) -> Float[Tensor, "images p v"]:
        """Returns the patches after the layer."""
        queries = self.norm(x)
        keys, values = self.attention.keys_values(queries)
        x = x + self.dropout(self.attention(queries, keys, values))
        return x + self.dropout(self.feedforward(x))


class TransformerConnector(nn.Module):
    """Lets the patches of each image attend to each other in ``config.depth`` layers."""

    def __init__(self, config: TransformerConfig, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.width = vision_width
        self.layers = nn.ModuleList(TransformerLayer(vision_width, config) for _ in range(config.depth))
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
            x = layer(x)
        return rearrange(self.norm(x), "(b m) p v -> b m p v", b=b, m=m)
