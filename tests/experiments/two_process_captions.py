"""Captions a folder of images in two processes, by the overrides of the command line."""

import sys

import torch
from accelerate import debug_launcher

from experiments.runs.run_captioning import run_captioning
from tests.helpers.configs import composed


def caption(*overrides: str) -> None:
    """Runs the command in one of the processes."""
    run_captioning(composed("caption", *overrides))


if __name__ == "__main__":
    torch.set_num_threads(1)
    debug_launcher(caption, tuple(sys.argv[1:]), num_processes=2)
