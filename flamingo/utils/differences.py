"""The differences of two nested dictionaries, such as the configs of two runs."""

from collections.abc import Iterator
from typing import Any


def differences(earlier: dict[str, Any], now: dict[str, Any], may_change: tuple[str, ...] = ()) -> list[str]:
    """Returns ``KEY was VALUE, is VALUE`` for each difference of two nested dictionaries, by its full key.

    Args:
        earlier: The first dictionary.
        now: The second dictionary.
        may_change: Keys whose differences, and those below them, do not count.
    """
    sentences = []
    for key, before, after in _differing(earlier, now, ""):
        if not any(key == name or key.startswith(f"{name}.") for name in may_change):
            sentences.append(f"{key} was {before!r}, is {after!r}")
    return sentences


def _differing(earlier: Any, now: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in sorted(earlier.keys() | now.keys(), key=str):
            key_below = f"{key}.{name}" if key else str(name)
            yield from _differing(earlier.get(name, "absent"), now.get(name, "absent"), key_below)
    elif _as_list(earlier) != _as_list(now):
        yield key, earlier, now


def _as_list(value: Any) -> Any:
    """Returns tuples as lists, since YAML has no tuples."""
    return list(value) if isinstance(value, tuple) else value
