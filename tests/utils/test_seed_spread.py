"""The spread over seeds is pooled over variants."""

import math

import pytest

from flamingo.utils.seed_spread import pooled_deviation, student


def test_the_deviation_is_pooled_over_the_groups():
    # Squares 2 * 0.05 ** 2 and 2 * 0.1 ** 2, of 1 + 1 degrees of freedom; a single score has none.
    deviation, freedom = pooled_deviation([[0.6, 0.7], [0.3, 0.5], [0.9], []])
    assert deviation == pytest.approx(math.sqrt((0.005 + 0.02) / 2)) and freedom == 2
    assert pooled_deviation([[0.6], [0.3]]) == (0.0, 0)


def test_students_quantiles_are_those_of_the_tables():
    assert student(1) == pytest.approx(12.706, abs=2e-3)
    assert student(2) == pytest.approx(4.303, abs=1e-3)
    assert student(8) == pytest.approx(2.306, abs=1e-3)
    assert student(1000) == pytest.approx(1.962, abs=1e-3)
