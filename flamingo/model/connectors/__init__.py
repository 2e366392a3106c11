"""Patch features -> visual tokens."""
