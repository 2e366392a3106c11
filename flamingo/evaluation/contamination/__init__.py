"""Images and captions of an evaluation in training data: exact and near duplicates."""
