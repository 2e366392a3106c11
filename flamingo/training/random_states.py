"""The random states of a process: Python, NumPy, torch and its CUDA device."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Returns the states of Python, NumPy, torch and this process's CUDA device, readable with ``weights_only``."""
    name, key, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Sets the states that :func:`random_states` has returned."""
    random.setstate(states["python"])
    name, key, *rest = states["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def untouched_random_states() -> Iterator[None]:
    """Restores the random states at the end of the block."""
    before = random_states()
    try:
        yield
    finally:
        set_random_states(before)
