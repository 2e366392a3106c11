"""Perceiver Resampler: any number of frames and patches -> a fixed number of visual tokens.

Source: Flamingo (arXiv 2204.14198), section 2.1 and appendix A.1.1.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward, head_norm
from flamingo.model.connectors import PerceiverConfig
from flamingo.utils.errors import UserError


class PerceiverLayer(GradientCheckpointingLayer):
    """latents += attention(latents -> [features; latents]); latents += feedforward(latents)."""

    def __init__(self, width: int, config: PerceiverConfig) -> None:
        super().__init__()
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        qk_norm = head_norm(config.qk_norm_kind) if config.qk_norm else nn.Identity
        self.attention = Attention(width, width, config.num_heads, config.head_dim, qk_norm)
        self.feedforward = FeedForward(nn.LayerNorm(width), width, config.mlp_ratio * width, config.activation)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, latents: Float[Tensor, "images r v"], features: Float[Tensor, "images patches v"]
    ) -> Float[Tensor, "images r v"]:
        """Returns the latents after the layer. ``patches`` counts those of all frames."""
        queries = self.norm_latents(latents)
        context = torch.cat([self.norm_features(features), queries], dim=1)
        keys, values = self.attention.keys_values(context)
        latents = latents + self.dropout(self.attention(queries, keys, values))
        return latents + self.dropout(self.feedforward(latents))


class PerceiverResampler(nn.Module):
    """Compresses the features of each image into ``config.num_latents`` visual tokens."""

    def __init__(self, config: PerceiverConfig, vision_width: int, text_width: int) -> None:
        """Makes the layers. The visual tokens have the width of the encoder's features, ``vision_width``."""
        super().__init__()
        self.width = vision_width
        self.latents = nn.Parameter(torch.empty(config.num_latents, vision_width))
        self.frame_embeddings = None
        if config.num_frames > 0:
            self.frame_embeddings = nn.Parameter(torch.empty(config.num_frames, vision_width))
        self.layers = nn.ModuleList(PerceiverLayer(vision_width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(vision_width)
        self.dropout = nn.Dropout(config.dropout)

    def reset_parameters(self) -> None:
        """Draws the latents and the frame embeddings. Layers and norms are initialised by their own classes."""
        init.normal_(self.latents, std=1.0)
        if self.frame_embeddings is not None:
            init.normal_(self.frame_embeddings, std=0.02)

    def num_tokens(self, patches: int, frames: int) -> int:
        """Returns the number of visual tokens of an image, which does not depend on its patches and frames."""
        return len(self.latents)

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m r v"]:
        """Returns the visual tokens of every image.

        Raises:
            UserError: For several frames without frame embeddings.
        """
        b, m, frames, _, _ = features.shape
        if self.frame_embeddings is not None:
            embeddings = frame_embeddings_for(self.frame_embeddings, frames)
            features = features + rearrange(embeddings, "f v -> f 1 v")
        elif frames > 1:
            raise UserError(
                f"images have {frames} frames, but connector.num_frames is 0: no embedding distinguishes them"
            )
        flat = rearrange(self.dropout(features), "b m f p v -> (b m) (f p) v")
        latents = repeat(self.latents, "r v -> images r v", images=b * m)
        for layer in self.layers:
            latents = layer(latents, flat)
        return rearrange(self.norm(latents), "(b m) r v -> b m r v", b=b, m=m)


def frame_embeddings_for(embeddings: Float[Tensor, "trained v"], frames: int) -> Float[Tensor, "f v"]:
    """Returns the first ``frames`` embeddings, or all of them, linearly interpolated, for more frames than trained."""
    if frames <= len(embeddings):
        return embeddings[:frames]
    stretched = F.interpolate(rearrange(embeddings, "f v -> 1 v f"), size=frames, mode="linear", align_corners=True)
    return rearrange(stretched, "1 v f -> f v")
