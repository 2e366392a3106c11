"""Times for people have two units at most."""

import pytest

from flamingo.utils.durations import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "under 1 s"),
        (0.4, "under 1 s"),
        (14.4, "14 s"),
        (59.6, "1 min"),
        (200.0, "3 min 20 s"),
        (4800.0, "1 h 20 min"),
        (12345.0, "3 h 25 min"),
        (180_000.0, "50 h 0 min"),
    ],
)
def test_a_time_has_the_units_that_fit_it(seconds, text):
    assert duration_text(seconds) == text
