"""The commands of the project: ``flamingo NAME --help``, or ``python -m experiments.NAME --help``."""
