"""Builds the wheel of the project, and makes environments to install it into."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What a wheel is made of.
SOURCES = ("flamingo", "experiments", "conf", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheel(folder: Path) -> Path:
    """Returns the wheel of the project, built in a new folder from a copy of its sources, without a network."""
    source, wheels = folder / "source", folder / "wheels"
    source.mkdir(parents=True)
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", wheels]
    subprocess.run([*_PIP, "wheel", *options, source], check=True)
    [wheel] = wheels.glob("*.whl")
    return wheel


def new_environment(folder: Path) -> Path:
    """Returns the Python of a new environment without packages, not even pip."""
    venv.create(folder)
    return folder / "bin" / "python"


def install(python: Path, requirement: Path | str, options: Sequence[str | Path]) -> None:
    """Installs a requirement, such as a wheel, into the environment of a Python."""
    subprocess.run([*_PIP, "--python", python, "install", *options, requirement], check=True)
