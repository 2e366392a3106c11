"""A trained model -> outputs: features, retrieval, generation."""
