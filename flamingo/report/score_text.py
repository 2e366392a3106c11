"""Scores -> the texts of all tables, logs and pages, in the units of the scorers."""

#: The units of scores, for readers of a page.
UNITS = "Scores have the scorers' units: accuracies and BLEU go from 0 to 1, CIDEr from 0 to 10."

#: The decimals of a score. The papers' tables, which are times 100, have one.
_DECIMALS = 3


def score_text(value: float) -> str:
    """Returns a score, such as ``0.466``."""
    return f"{_rounded(value):.{_DECIMALS}f}"


def difference_text(difference: float | None) -> str:
    """Returns a difference of scores with its sign, such as ``+0.012``; empty for None."""
    return "" if difference is None else f"{_rounded(difference):+.{_DECIMALS}f}"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Returns an interval of scores, such as ``0.432 to 0.503``; empty for None."""
    if interval is None:
        return ""
    low, high = interval
    return f"{score_text(low)} to {score_text(high)}"


def _rounded(value: float) -> float:
    """Returns the value with the decimals that are shown, and without the sign of a zero."""
    return round(value, _DECIMALS) + 0.0
