"""Announces the controls of an evaluation, with an estimate of their time from that of the settings before them."""

import time
from collections.abc import Callable, Mapping

from flamingo.evaluation.settings import Setting
from flamingo.utils.durations import duration_text


class ControlClock:
    """Measures the time of the plain settings, which come first."""

    def __init__(
        self,
        numbers: Mapping[Setting, int],
        announce: Callable[[str], object] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts without measurements.

        Args:
            numbers: The number of predictions of each setting by all processes, in the order in which the settings run.
            announce: Called with the announcement; None: no announcement.
            now: Returns the time in seconds.
        """
        self._numbers, self._announce, self._now = numbers, announce, now
        self._seconds: dict[Setting, float] = {}
        self._begun = 0.0
        self._announced = False

    def begin(self, setting: Setting) -> None:
        """Starts the clock of a setting, and announces all controls before the first of them."""
        self._begun = self._now()
        if setting.control is None or self._announced:
            return
        self._announced = True
        if self._announce is not None:
            self._announce(self._announcement())

    def end(self, setting: Setting) -> None:
        """Stops the clock of a setting."""
        if self._numbers[setting] > 0:
            self._seconds[setting] = (self._now() - self._begun) / self._numbers[setting]

    def _announcement(self) -> str:
        controls = [setting for setting in self._numbers if setting.control is not None]
        names = dict.fromkeys(str(setting.control) for setting in controls)
        shots = sorted({setting.shots for setting in controls})
        number = sum(self._numbers[setting] for setting in controls)
        return (
            f"controls at {', '.join(map(str, shots))} shots: {', '.join(names)}; {number} predictions, "
            f"{self._estimate()}; controls=[] leaves them out"
        )

    def _estimate(self) -> str:
        """Returns the time of all controls that ask the model, at the pace of the plain settings nearest in shots."""
        plain = {setting: pace for setting, pace in self._seconds.items() if setting.control is None}
        if not plain:
            return "whose time is not known yet"
        seconds = 0.0
        for setting, number in self._numbers.items():
            if setting.control is not None and setting.change.answer is None:
                nearest = min(plain, key=lambda one: _distance(one, setting))
                seconds += number * plain[nearest]
        return f"about {duration_text(seconds)}"


def _distance(plain: Setting, control: Setting) -> tuple[bool, int, bool]:
    """Returns how unlike the times of a plain setting and a control are, for the choice of the nearest."""
    return (
        plain.num_beams != control.num_beams,
        abs(plain.num_demonstrations - control.num_demonstrations),
        plain.demonstrations != control.demonstrations,
    )
