"""Batches -> logits."""

from typing import Any

#: The attributes of a model that hold its parts: those frozen by default, and those trained.
BACKBONES = ("vision_model", "language_model")
TRAINED_PARTS = ("connector", "fusion", "new_tokens")
#: The kernels of self-attention in packed rows: see :mod:`flamingo.model.packed_attention`.
PACKED_ATTENTION = ("dense", "flex", "varlen")
#: Fields of a transformers config by name, including ``model_type``. Each architecture has fields of its own.
Fields = dict[str, Any]
