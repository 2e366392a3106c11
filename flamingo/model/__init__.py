"""Batches -> logits."""
