"""Problems are collected and reported together, each once."""

import pytest

from flamingo.utils.errors import UserError
from flamingo.utils.problems import Problems


def test_all_problems_are_reported_once_with_their_keys():
    problems = Problems()
    problems.report()
    for key, sentence in (("", "steps is 0"), ("data.root", "no such folder"), ("", "steps is 0")):
        with problems.collected(key):
            raise UserError(sentence)
    with pytest.raises(UserError) as caught:
        problems.report()
    assert str(caught.value) == "2 problems:\n- steps is 0\n- data.root: no such folder"


def test_several_problems_of_a_block_are_kept_one_by_one():
    inner, outer = Problems(), Problems()
    for sentence in ("steps is 0", "seed is -1"):
        with inner.collected():
            raise UserError(sentence)
    with outer.collected():
        raise UserError("seed is -1")
    with outer.collected():
        inner.report()
    with outer.collected("data"):
        inner.report()
    assert outer.sentences == ["seed is -1", "steps is 0", "data: steps is 0", "data: seed is -1"]


def test_one_problem_is_one_sentence_and_other_errors_pass():
    problems = Problems()
    with pytest.raises(ZeroDivisionError), problems.collected():
        raise ZeroDivisionError
    with problems.collected():
        raise UserError("steps is 0")
    with pytest.raises(UserError, match=r"^steps is 0$"):
        problems.report()
