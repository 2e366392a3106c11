"""The log of broken samples: the first ones of each reason. The history has the numbers of all."""

import logging
from collections import Counter

log = logging.getLogger(__name__)

#: The samples of each reason that a process logs.
_MOST = 3
_num_logged: Counter[str] = Counter()


def log_drop(reason: str, place: str, error: Exception) -> None:
    """Logs that a sample or document is left out, unless this process has logged enough for the same reason.

    Args:
        reason: The reason, as the history has it.
        place: The sample or the document.
        error: What is wrong with it.
    """
    _num_logged[reason] += 1
    if _num_logged[reason] <= _MOST:
        last = "; more of this kind are counted only" if _num_logged[reason] == _MOST else ""
        log.warning("left out: %s: %s%s", place, error, last)
