"""Checks accept the numbers of their range and nothing else, and their errors begin with the key."""

import math

import pytest

from flamingo.utils import checks
from flamingo.utils.errors import UserError

#: Of each check what it accepts and what it refuses.
CASES = {
    checks.finite: ([0, -1, 2.5], [math.nan, math.inf, -math.inf, True, None, "1"]),
    checks.positive: ([1, 1e-9], [0, -1, math.nan, math.inf, True, "1"]),
    checks.not_negative: ([0, 0.0, 3], [-1e-9, math.nan, math.inf, False]),
    checks.probability: ([0, 0.5, 1], [-0.1, 1.1, math.nan, True]),
    checks.below_one: ([0, 0.999], [1, -0.1, math.nan, False]),
    checks.seed: ([0, 2**32 - 1], [-1, 2**32, 0.0, True]),
    checks.flag: ([True, False], [0, 1, "false", None]),
}


@pytest.mark.parametrize("check", CASES, ids=lambda check: check.__name__)
def test_a_value_in_range_passes_and_any_other_is_named(check):
    right, wrong = CASES[check]
    for value in right:
        check("part.key", value)
    for value in wrong:
        with pytest.raises(UserError) as caught:
            check("part.key", value)
        assert str(caught.value).startswith("part.key ") and repr(value) in str(caught.value)


def test_whole_numbers_have_one_or_two_limits():
    checks.whole("key", 3, least=3)
    checks.whole("key", 3, least=0, most=3)
    for value, most in ((2, None), (4, 3), (3.0, None), (True, None), (None, None)):
        with pytest.raises(UserError, match=r"^key .*" + repr(value)):
            checks.whole("key", value, 3, most)


def test_a_choice_that_is_unknown_is_named_with_the_known_ones():
    checks.one_of("key", None, (None, "a"))
    with pytest.raises(UserError, match=r"^key .*None, a.*'b'"):
        checks.one_of("key", "b", (None, "a"))


def test_errors_that_name_a_file_get_a_key():
    with pytest.raises(UserError, match=r"^a\.b: file has no shard$"), checks.named("a.b"):
        raise UserError("file has no shard")


def test_errors_within_a_part_name_the_whole_key():
    with pytest.raises(UserError, match=r"^a\.b\.key "), checks.within("a"), checks.within("b"):
        checks.positive("key", 0)
    with pytest.raises(ValueError) as caught, checks.within("a"):
        raise ValueError("of torch")
    assert type(caught.value) is ValueError and str(caught.value) == "of torch"
