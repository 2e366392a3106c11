"""Golden values: what trainings, captions, scores and converted checkpoints give, recorded before the code changes."""
