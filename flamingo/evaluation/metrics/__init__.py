"""Outputs and references -> scores."""
