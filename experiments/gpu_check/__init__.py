"""Checks on one GPU that everything runs there, and measures how fast: ``make gpu-check``."""
