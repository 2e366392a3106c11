"""The packages of the wheel. It holds the folder conf/ as experiments/conf."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["flamingo*", "experiments*"]), "experiments.conf"],
    package_dir={"experiments.conf": "conf"},
)
