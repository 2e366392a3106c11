"""Q-Former: learned queries attend to one another and, in every second layer, to the patches.

Source: BLIP-2 (arXiv 2301.12597), section 3.1, and its code in LAVIS: a BERT without text, whose layers normalise after
each residual.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from flamingo.model.attention import Attention
from flamingo.model.connectors import QFormerConfig
from flamingo.model.connectors.patches import single_frame

#: The epsilon of BERT's norms.
_EPS = 1e-12


class QFormerLayer(GradientCheckpointingLayer):
    """Self-attention, cross-attention to the patches in some layers, feed-forward; a norm after each residual."""

    def __init__(self, config: QFormerConfig, vision_width: int, attends_to_patches: bool) -> None:
        super().__init__()
        width = config.width
        head_dim = width // config.num_heads
        self.self_attention = Attention(width, width, config.num_heads, head_dim, bias=True, context="latents")
        self.self_norm = nn.LayerNorm(width, eps=_EPS)
        self.cross_attention = None
        if attends_to_patches:
            self.cross_attention = Attention(
                width, vision_width, config.num_heads, head_dim, bias=True, context="patches"
            )
            self.cross_norm = nn.LayerNorm(width, eps=_EPS)
        self.up = nn.Linear(width, config.mlp_ratio * width)
        self.activation = ACT2FN[config.activation]
        self.down = nn.Linear(config.mlp_ratio * width, width)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, queries: Float[Tensor, "images r d"], patches: Float[Tensor, "images p v"]
    ) -> Float[Tensor, "images r d"]:
        """Returns the queries after the layer."""
        attended = self.self_attention(queries, *self.self_attention.keys_values(queries))
        queries = self.self_norm(queries + self.dropout(attended))
        if self.cross_attention is not None:
            attended = self.cross_attention(queries, *self.cross_attention.keys_values(patches))
            queries = self.cross_norm(queries + self.dropout(attended))
        inner = self.activation(self.up(queries))
        return self.norm(queries + self.dropout(self.down(inner)))


class QFormer(nn.Module):
    """Compresses the features of each image into ``config.num_query_tokens`` visual tokens."""

    def __init__(self, config: QFormerConfig, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.width = config.width
        self.queries = nn.Parameter(torch.empty(config.num_query_tokens, config.width))
        self.norm_queries = nn.LayerNorm(config.width, eps=_EPS)
        #: LAVIS normalises the features of the encoder before the Q-Former, and trains this norm.
        self.norm_features = nn.LayerNorm(vision_width)
        self.layers = nn.ModuleList()
        for index in range(config.depth):
            attends_to_patches = index % config.cross_attention_every == 0
            self.layers.append(QFormerLayer(config, vision_width, attends_to_patches))
        self.dropout = nn.Dropout(config.dropout)

    def reset_parameters(self) -> None:
        """Draws the queries. Layers and norms are initialised by their own classes."""
        init.normal_(self.queries, std=0.02)

    def num_tokens(self, patches: int, frames: int) -> int:
        """Returns the number of visual tokens of an image, which does not depend on its patches."""
        return len(self.queries)

    def forward(self, features: Float[Tensor, "b m f p v"]) -> Float[Tensor, "b m r d"]:
        """Returns the visual tokens of every image.

        Raises:
            UserError: For several frames.
        """
        b, m = features.shape[:2]
        patches = self.norm_features(single_frame(features))
        queries = self.dropout(self.norm_queries(self.queries))
        queries = repeat(queries, "r d -> images r d", images=b * m)
        for layer in self.layers:
            queries = layer(queries, patches)
        return rearrange(queries, "(b m) r d -> b m r d", b=b, m=m)
