"""Golden values: losses, captions, scores and converted logits, recorded before the code changes."""
