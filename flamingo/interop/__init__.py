"""Other people's checkpoints <-> ours."""
