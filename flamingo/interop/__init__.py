"""Checkpoints of other projects <-> ours."""
