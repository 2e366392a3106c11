"""Today's code gives the recorded values, up to the rounding of another processor."""

import pytest
import torch

from tests.golden.cases import CASES, compute
from tests.golden.values import Values, differences, read_values

#: Of an expected number: processors add in different orders.
TOLERANCE = 2e-3
ALWAYS = "resumed"


@pytest.mark.parametrize(
    "case", [case if case == ALWAYS else pytest.param(case, marks=pytest.mark.full) for case in CASES]
)
def test_values_are_those_recorded(case):
    torch.set_num_threads(1)
    [values] = compute([case]).values()
    assert differences(case, read_values()[case], values, TOLERANCE) == []


def test_a_difference_is_found_in_numbers_texts_and_keys():
    expected: Values = {"losses": [1.0, 2.0], "outputs": ["a star", "a ring"]}
    assert differences("case", expected, {"losses": [1.0, 2.001], "outputs": ["a star", "a ring"]}, 1e-3) == []
    for found in (
        {"losses": [1.0, 2.003], "outputs": ["a star", "a ring"]},
        {"losses": [1.0], "outputs": ["a star", "a ring"]},
        {"losses": [1.0, 2.0], "outputs": ["a star", "a moon"]},
        {"losses": [1.0, 2.0]},
    ):
        assert len(differences("case", expected, found, 1e-3)) == 1
    assert len(differences("case", expected, {**expected, "losses": [1.0, 2.0000001]})) == 1
