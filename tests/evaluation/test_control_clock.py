"""Controls are announced once, with their time at the pace of the plain settings."""

from flamingo.evaluation.control_clock import ControlClock
from flamingo.evaluation.settings import Setting

PLAIN = [Setting(0, None), Setting(8, "random"), Setting(8, "random", num_beams=3)]
CONTROLS = [
    Setting(8, "random", "blind"),
    Setting(8, "random", "copied_caption"),
    Setting(8, "random", "blind", num_beams=3),
]


class Time:
    """A clock that is set by hand."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


def announcements(settings, paces, number=60):
    """What is said before each setting; each takes a pace (seconds a prediction)."""
    time = Time()
    said = []
    clock = ControlClock(dict.fromkeys(settings, number), said.append, time)
    before = []
    for setting in settings:
        clock.begin(setting)
        before.append(list(said))
        said.clear()
        time.seconds += number * paces.get(setting, 1.0)
        clock.end(setting)
    return before


def test_time_is_that_of_the_plain_setting_with_equal_shots():
    paces = {PLAIN[0]: 100.0, PLAIN[1]: 2.0, PLAIN[2]: 5.0, CONTROLS[0]: 1000.0}
    said = announcements(PLAIN + CONTROLS, paces)
    assert [len(texts) for texts in said] == [0, 0, 0, 1, 0, 0]
    # The copied caption asks no model: 60 * 2 + 60 * 5 seconds.
    [text] = said[3]
    assert "8 shots" in text and "blind, copied_caption; 180 predictions, about 7 min" in text


def test_short_times_are_in_seconds_and_an_unknown_one_is_none():
    [_, [said]] = announcements([PLAIN[1], CONTROLS[0]], {PLAIN[1]: 0.5})
    assert "about 30 s" in said
    [[said]] = announcements(CONTROLS[:1], {})
    assert "not known" in said
    assert announcements(PLAIN, {}) == [[]] * 3
