"""Random decisions that are made for each encoded document."""

import random


def check_coin(name: str, probability: float | int, rng: random.Random | None) -> None:
    """Checks the probability of a decision.

    Args:
        name: The name of the probability, for errors.
        probability: The probability.
        rng: The generator that decides; it is needed unless the probability is 0 or 1.

    Raises:
        ValueError: If the probability is outside [0, 1], or the generator is missing.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {probability}")
    if 0 < probability < 1 and rng is None:
        raise ValueError(f"{name}={probability} needs a random generator: give an rng")


def flip(probability: float | int, rng: random.Random | None) -> bool:
    """Returns True with the given probability. Nothing is drawn if it is 0 or 1."""
    if probability in (0, 1):
        return probability == 1
    assert rng is not None
    return rng.random() < probability
