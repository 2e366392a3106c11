"""Perceiver Resampler: any number of frames and patches -> a fixed number of visual tokens.

Source: Flamingo (arXiv 2204.14198), section 2.1 and appendix A.1.1; section 3.3 for what is compared with it.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention, FeedForward
from flamingo.model.config import ResamplerConfig
from flamingo.utils.errors import UserError


class ResamplerLayer(GradientCheckpointingLayer):
    """latents += attention(latents -> [features; latents]); latents += feedforward(latents)."""

    def __init__(self, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        kind = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.qk_norm_kind]
        qk_norm = kind if config.qk_norm else nn.Identity
        self.attention = Attention(width, width, config.heads, config.head_width, qk_norm)
        self.feedforward = _feedforward(width, config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, latents: Float[Tensor, "images r v"], features: Float[Tensor, "images fp v"]
    ) -> Float[Tensor, "images r v"]:
        queries = self.norm_latents(latents)
        context = torch.cat([self.norm_features(features), queries], dim=1)
        latents = latents + self.dropout(self.attention(queries, *self.attention.keys_values(context)))
        return latents + self.dropout(self.feedforward(latents))


class PerceiverResampler(nn.Module):
    """Compresses the features of each image into ``config.latents`` visual tokens."""

    def __init__(self, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.latents, width))
        self.frame_embeddings = nn.Parameter(torch.empty(config.frames, width)) if config.frames else None
        self.layers = nn.ModuleList(ResamplerLayer(width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m r v"]:
        """Visual tokens of every image. Raises UserError for several frames without frame embeddings."""
        b, m, frames, _, _ = features.shape
        if self.frame_embeddings is not None:
            features = features + rearrange(self._embeddings_of(frames), "f v -> f 1 v")
        elif frames > 1:
            raise UserError(f"images have {frames} frames, but resampler.frames is 0: nothing would tell them apart")
        flat = rearrange(self.dropout(features), "b m f p v -> (b m) (f p) v")
        latents = repeat(self.latents, "r v -> images r v", images=b * m)
        for layer in self.layers:
            latents = layer(latents, flat)
        return rearrange(self.norm(latents), "(b m) r v -> b m r v", b=b, m=m)

    def _embeddings_of(self, frames: int) -> Float[Tensor, "f v"]:
        """The first embeddings; for more frames than trained, all of them stretched linearly."""
        assert self.frame_embeddings is not None
        trained = len(self.frame_embeddings)
        if frames <= trained:
            return self.frame_embeddings[:frames]
        stretched = F.interpolate(
            rearrange(self.frame_embeddings, "f v -> 1 v f"), size=frames, mode="linear", align_corners=True
        )
        return rearrange(stretched, "1 v f -> f v")


class PatchLayers(nn.Module):
    """In the Perceiver's place, to compare: a visual token for every patch, after ``config.depth`` layers or none.

    The transformer's layers are the Perceiver's, in which patches attend to each other; the paper does not say what
    its own were.
    """

    def __init__(self, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        make = ResamplerLayer if config.kind == "transformer" else _feedforward
        depth = 0 if config.kind == "none" else config.depth
        self.layers = nn.ModuleList(make(width, config) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m p v"]:
        """Raises UserError for several frames, which nothing would tell apart."""
        b, m, frames, _, _ = features.shape
        if frames > 1:
            raise UserError(f"images have {frames} frames, but only resampler.kind=perceiver tells them apart")
        x = rearrange(self.dropout(features), "b m 1 p v -> (b m) p v")
        for layer in self.layers:
            # Without features of its own the Perceiver's context is the queries alone: self-attention.
            x = layer(x, x[:, :0]) if isinstance(layer, ResamplerLayer) else x + self.dropout(layer(x))
        return rearrange(self.norm(x), "(b m) p v -> b m p v", b=b, m=m)


def make_resampler(width: int, config: ResamplerConfig) -> PerceiverResampler | PatchLayers:
    """Features [b m f p v] -> visual tokens [b m r v], of the kind that ``config`` says."""
    return PerceiverResampler(width, config) if config.kind == "perceiver" else PatchLayers(width, config)


def _feedforward(width: int, config: ResamplerConfig) -> FeedForward:
    return FeedForward(nn.LayerNorm(width), width, config.feedforward_multiple * width, config.activation)
