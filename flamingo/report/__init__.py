"""Scores -> plots and one page of HTML."""
