"""Ours beside its peers: the same weights, inputs and outputs, measured in turn."""
