"""Batches -> logits."""

#: The attributes of a model that hold its parts: frozen by default, and trained.
BACKBONES = ("vision_model", "language_model")
TRAINED_PARTS = ("connector", "fusion", "new_tokens")
