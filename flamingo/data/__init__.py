"""Images and texts -> batches."""
