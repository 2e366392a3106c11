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
    """Checks a whole number. True and False are not numbers.

    Args:
        key: The key of the config, with which the error begins.
        value: The value.
        least: The smallest number that is allowed.
        most: The largest number that is allowed; None: any.

    Raises:
        UserError: If the value is not such a number.
    """
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    if type(value) is not int or value < least or (most is not None and value > most):
        raise UserError(f"{key} must be a whole number {limits}, got {value!r}")


def seed(key: str, value: Any) -> None:
    """Checks a seed: the generators of Python, NumPy and torch must all take it.

    Raises:
        UserError: Unless the value is a whole number from 0 to 2**32 - 1.
    """
    whole(key, value, 0, _SEEDS - 1)


def finite(key: str, value: Any) -> None:
    """Checks a finite number.

    Raises:
        UserError: If the value is infinite, NaN or not a number.
    """
    if not _is_finite(value):
        raise UserError(f"{key} must be a finite number, got {value!r}")


def positive(key: str, value: Any) -> None:
    """Checks a finite number above 0.

    Raises:
        UserError: If the value is not such a number.
    """
    if not (_is_finite(value) and value > 0):
        raise UserError(f"{key} must be a finite number above 0, got {value!r}")


def not_negative(key: str, value: Any) -> None:
    """Checks a finite number of at least 0.

    Raises:
        UserError: If the value is not such a number.
    """
    if not (_is_finite(value) and value >= 0):
        raise UserError(f"{key} must be a finite number of at least 0, got {value!r}")


def probability(key: str, value: Any) -> None:
    """Checks a number in [0, 1].

    Raises:
        UserError: If the value is not such a number.
    """
    if not (_is_finite(value) and 0 <= value <= 1):
        raise UserError(f"{key} must be a number in [0, 1], got {value!r}")


def positive_probability(key: str, value: Any) -> None:
    """Checks a number in (0, 1].

    Raises:
        UserError: If the value is not such a number.
    """
    if not (_is_finite(value) and 0 < value <= 1):
        raise UserError(f"{key} must be a number in (0, 1], got {value!r}")


def below_one(key: str, value: Any) -> None:
    """Checks a number in [0, 1).

    Raises:
        UserError: If the value is not such a number.
    """
    if not (_is_finite(value) and 0 <= value < 1):
        raise UserError(f"{key} must be a number in [0, 1), got {value!r}")


def flag(key: str, value: Any) -> None:
    """Checks a truth value. The text "false" is not one.

    Raises:
        UserError: Unless the value is True or False.
    """
    if type(value) is not bool:
        raise UserError(f"{key} must be true or false, got {value!r}")


def one_of(key: str, value: Any, choices: Iterable[Any]) -> None:
    """Checks that a value is one of some choices.

    Raises:
        ChoiceError: If it is none of them; the error lists the choices.
    """
    known = list(choices)
    if value not in known:
        raise ChoiceError(key, value, known)


def folder(key: str, value: str | Path) -> None:
    """Checks that a folder exists.

    Raises:
        UserError: If there is no such folder, or it is a file.
    """
    if not Path(value).exists():
        raise UserError(f"{key}={value}: there is no such folder")
    if not Path(value).is_dir():
        raise UserError(f"{key}={value} is a file, not a folder")


@contextmanager
def within(key: str) -> Iterator[None]:
    """Prefixes errors of the block with ``key`` and a dot: ``steps must ...`` becomes ``training.steps must ...``.

    Raises:
        UserError: The error of the block, with the longer key.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


@contextmanager
def named(key: str) -> Iterator[None]:
    """Prefixes errors of the block with ``key`` and a colon. They name a file or a reason, not a key of a section.

    Raises:
        UserError: The error of the block, with the key.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
