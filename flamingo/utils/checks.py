"""Checks of a config's values: each raises UserError with one sentence that begins with the key."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flamingo.utils.errors import ChoiceError, UserError

#: Seeds from here on are refused by NumPy.
_SEEDS = 2**32


def whole(key: str, value: Any, least: int, most: int | None = None) -> None:
    """A whole number of at least ``least`` and, if given, at most ``most``. True and False are no numbers."""
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    if type(value) is not int or value < least or (most is not None and value > most):
        raise UserError(f"{key} must be a whole number {limits}, got {value!r}")


def seed(key: str, value: Any) -> None:
    """A seed that the generators of Python, NumPy and torch all take."""
    whole(key, value, 0, _SEEDS - 1)


def finite(key: str, value: Any) -> None:
    """A number that is neither infinite nor NaN."""
    if not _is_finite(value):
        raise UserError(f"{key} must be a finite number, got {value!r}")


def positive(key: str, value: Any) -> None:
    """A finite number above 0."""
    if not (_is_finite(value) and value > 0):
        raise UserError(f"{key} must be a finite number above 0, got {value!r}")


def not_negative(key: str, value: Any) -> None:
    """A finite number of at least 0."""
    if not (_is_finite(value) and value >= 0):
        raise UserError(f"{key} must be a finite number of at least 0, got {value!r}")


def probability(key: str, value: Any) -> None:
    """A number from 0 to 1."""
    if not (_is_finite(value) and 0 <= value <= 1):
        raise UserError(f"{key} must be a number in [0, 1], got {value!r}")


def positive_probability(key: str, value: Any) -> None:
    """A number above 0, and at most 1."""
    if not (_is_finite(value) and 0 < value <= 1):
        raise UserError(f"{key} must be a number in (0, 1], got {value!r}")


def below_one(key: str, value: Any) -> None:
    """A number from 0 to less than 1."""
    if not (_is_finite(value) and 0 <= value < 1):
        raise UserError(f"{key} must be a number in [0, 1), got {value!r}")


def flag(key: str, value: Any) -> None:
    """True or False: the text "false" is neither."""
    if type(value) is not bool:
        raise UserError(f"{key} must be true or false, got {value!r}")


def one_of(key: str, value: Any, choices: Iterable[Any]) -> None:
    """One of some choices, which the error lists."""
    known = list(choices)
    if value not in known:
        raise ChoiceError(key, value, known)


def folder(key: str, value: str | Path) -> None:
    """A folder that exists."""
    if not Path(value).exists():
        raise UserError(f"{key}={value}: there is no such folder")
    if not Path(value).is_dir():
        raise UserError(f"{key}={value} is a file, not a folder")


@contextmanager
def within(key: str) -> Iterator[None]:
    """Errors of the block begin with ``key`` and a dot: ``steps must ...`` becomes ``training.steps must ...``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
