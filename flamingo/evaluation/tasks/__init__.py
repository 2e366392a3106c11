"""Tasks: queries, the pool of demonstrations, and what a right output is."""
