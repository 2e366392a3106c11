"""Visual tokens -> language model."""
