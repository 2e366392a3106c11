"""Batches -> logits."""

from typing import Any

#: The attributes of a model that hold its parts: frozen by default, and trained.
BACKBONES = ("vision_model", "language_model")
TRAINED_PARTS = ("connector", "fusion", "new_tokens")
#: Fields of a transformers config by name, ``model_type`` among them. Each architecture has fields of its own.
Fields = dict[str, Any]
