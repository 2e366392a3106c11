"""Durations as text: seconds, minutes, hours."""


def duration_text(seconds: float) -> str:
    """Returns a duration in at most two units, such as ``1 h 20 min``, ``3 min 20 s`` or ``14 s``."""
    whole_seconds = round(seconds)
    if whole_seconds == 0:
        return "under 1 s"
    minutes, rest = divmod(whole_seconds, 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours > 0:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
