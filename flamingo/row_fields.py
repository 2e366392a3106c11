"""Fields that rows of differences.json and in_context.json share: a setting without a seed, and an interval."""

import math
from typing import Any

from flamingo.results import SETTING, SettingOfTask, check_row, setting_of
from flamingo.utils.errors import UserError

Interval = tuple[float, float] | None

NUMBER = (int, float)


def read_setting(row: Any, origin: str) -> SettingOfTask:
    """Returns the setting of an object, which has no seed.

    Raises:
        UserError: If a field is missing or malformed.
    """
    types = {name: allowed for name, allowed in SETTING.items() if name != "seed"}
    check_row(row, types, origin)
    return setting_of(row)


def read_interval(name: str, ends: list[Any] | None, origin: str) -> Interval:
    """Returns the interval of the field ``name``.

    Raises:
        UserError: If it is not null or [low, high], both finite.
    """
    if ends is None:
        return None
    if len(ends) != 2 or not all(isinstance(end, NUMBER) and math.isfinite(end) for end in ends) or ends[0] > ends[1]:
        raise UserError(f"{origin}: {name!r} must be [low, high], got {ends!r:.80}")
    return float(ends[0]), float(ends[1])
