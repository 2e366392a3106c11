"""Measures our implementation and its peers in turn, with the same weights, inputs and outputs."""
