"""Coins that are flipped for each document that is encoded."""

import random


def check_coin(name: str, probability: float | int, rng: random.Random | None) -> None:
    """Raises ValueError for a probability outside [0, 1], and for one that needs a generator and has none."""
    if not 0 <= probability <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {probability}")
    if 0 < probability < 1 and rng is None:
        raise ValueError(f"{name}={probability} needs a random generator: give an rng")


def flip(probability: float | int, rng: random.Random | None) -> bool:
    """Returns True with a probability; nothing is drawn where it is 0 or 1."""
    if probability in (0, 1):
        return probability == 1
    assert rng is not None
    return rng.random() < probability
