"""Code that every other part may import. This package imports nothing of the project."""
