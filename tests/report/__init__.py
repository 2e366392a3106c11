"""Tests of flamingo.report."""
