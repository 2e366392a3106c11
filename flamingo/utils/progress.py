"""Progress bars, which the environment variable ``TQDM_DISABLE`` hides."""

import os

from tqdm.auto import tqdm


def progress_bar(total: int, unit: str, visible: bool = True, initial: int = 0, description: str | None = None) -> tqdm:
    """Returns a progress bar: a widget in a notebook with ipywidgets, else a line on stderr.

    tqdm reads its environment variables at import. This function reads ``TQDM_DISABLE`` at each call.

    Args:
        total: The number of units to do.
        unit: The name of a unit.
        visible: Whether this process shows the bar.
        initial: The number of units that are done.
        description: The text before the bar.
    """
    hidden = not visible or os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(total=total, unit=unit, initial=initial, desc=description, disable=hidden)
