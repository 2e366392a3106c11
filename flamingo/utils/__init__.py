"""What every other part may import; this package imports nothing of the project."""
