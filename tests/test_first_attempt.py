"""The conditions of first attempts, and their table."""

from dataclasses import replace

import pytest

from tests.first_attempt import table
from tests.first_attempt.attempt import Outcome, _seconds

GOOD = Outcome(
    statuses={"dry run": 0, "train": 0, "evaluate": 0, "caption": 0},
    first_loss=3.0,
    last_loss=2.0,
    seconds=100.0,
    estimated_seconds=71.0,
    memory=2.0,
    estimated_memory=2.5,
    scores=4,
    captions=4,
    images=4,
)


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"statuses": {"dry run": 0, "train": 1}}, "exit status"),
        ({"statuses": {}}, "exit status"),
        ({"last_loss": 3.0}, "loss"),
        ({"scores": 0}, "evaluation"),
        ({"captions": 3}, "captions"),
        ({"captions": 0, "images": 0}, "captions"),
        ({"estimated_seconds": 69.0}, "time"),
        ({"estimated_seconds": 131.0}, "time"),
        ({"estimated_memory": 1.3}, "memory"),
    ],
)
def test_each_condition_fails_alone(change, condition):
    assert GOOD.failed_conditions() == []
    assert replace(GOOD, **change).failed_conditions() == [condition]


def test_the_summary_names_the_attempts_that_fail_a_condition():
    outcomes = {"a": GOOD, "b": replace(GOOD, last_loss=3.0), "c": replace(GOOD, last_loss=4.0, captions=0)}
    assert table.summary(outcomes).splitlines() == [
        "1 of 3 attempts meet all conditions",
        "loss fails in 2: b, c",
        "captions fails in 1: c",
    ]
    assert "loss, captions" in table.line("c", outcomes["c"])


def test_durations_of_a_dry_run_are_read():
    assert [_seconds(text) for text in ("14 s", "3 min 20 s", "1 h 20 min")] == [14, 200, 4800]
