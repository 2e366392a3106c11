"""The commands of the project: ``python -m experiments.NAME --help``."""
