"""Contrastive pretraining of a vision encoder with captions (CLIP, arXiv 2103.00020): two towers and their loss."""

import math
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from flamingo.model.vision import encode_patches, feature_width
from flamingo.model.vision_features import VisionFeaturesConfig


class ImageTower(nn.Module):
    """The encoder, and an attention pool over its features that has no position embeddings.

    The pool, like the connector that reads the features later, knows the position of a feature only from the feature
    itself. The features must therefore contain all positions that the contrast depends on.
    """

    def __init__(self, encoder: Any, features: VisionFeaturesConfig, embed_dim: int, num_queries: int = 8) -> None:
        super().__init__()
        self.vision_model, self.features = encoder, features
        width = feature_width(encoder, features)
        self.queries = nn.Parameter(torch.randn(num_queries, width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.projection = nn.Sequential(
            nn.LayerNorm(num_queries * width),
            nn.Linear(num_queries * width, 2 * embed_dim),
            nn.GELU(),
            nn.Linear(2 * embed_dim, embed_dim),
        )

    def forward(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b embed_dim"]:
        """Returns embeddings of unit length."""
        # Convolutions with few channels are several times faster in this memory format.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = self.norm(encode_patches(self.vision_model, pixel_values, self.features))
        queries = repeat(self.queries, "q v -> b q v", b=len(features))
        pooled, _ = self.attention(queries, features, features, need_weights=False)
        return F.normalize(self.projection(rearrange(pooled, "b q v -> b (q v)")), dim=-1)


def text_config(tokenizer: Any, embed_dim: int) -> CLIPTextConfig:
    """Returns the config of a small text encoder for a tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=embed_dim,
        intermediate_size=4 * embed_dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class TextTower(nn.Module):
    """A CLIP text encoder with a projection."""

    def __init__(self, config: CLIPTextConfig, embed_dim: int) -> None:
        super().__init__()
        self.encoder = CLIPTextModel(config)
        self.projection = nn.Linear(config.hidden_size, embed_dim)

    def forward(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b embed_dim"]:
        """Returns embeddings of unit length."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return F.normalize(self.projection(states), dim=-1)


class ContrastiveOutput(NamedTuple):
    """The output of :class:`ImageTextContrast`."""

    loss: Float[Tensor, ""]


class ImageTextContrast(nn.Module):
    """An image tower, a text tower, and a learned temperature."""

    def __init__(self, images: nn.Module, texts: nn.Module) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def clamped_log_scale(self) -> Float[Tensor, ""]:
        """Returns the logarithm of the factor of the logits, at most 100 as in CLIP, section 2.5."""
        return self.log_scale.clamp(max=math.log(100))

    def forward(
        self,
        pixel_values: Float[Tensor, "b c h w"],
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"],
        same: Bool[Tensor, "b b"],
        num_items_in_batch: int,
    ) -> ContrastiveOutput:
        """Returns CLIP's symmetric loss (nats per pair).

        Args:
            pixel_values: The images.
            input_ids: The captions.
            attention_mask: 1 for the tokens of the captions, 0 for padding.
            same: True for equal captions, which are not negatives of each other.
            num_items_in_batch: The number of pairs in the whole update.
        """
        scale = self.clamped_log_scale().exp()
        logits = scale * self.images(pixel_values) @ self.texts(input_ids, attention_mask).T
        is_pair = torch.eye(len(same), dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(same & ~is_pair, -torch.inf)
        targets = torch.arange(len(logits), device=logits.device)
        image_to_text = F.cross_entropy(logits, targets, reduction="sum")
        text_to_image = F.cross_entropy(logits.T, targets, reduction="sum")
        return ContrastiveOutput((image_to_text + text_to_image) / 2 / num_items_in_batch)
