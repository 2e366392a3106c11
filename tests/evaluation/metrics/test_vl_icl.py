"""The accuracies of VL-ICL Bench, by hand."""

import pytest

from flamingo.evaluation.metrics.vl_icl import answer_part, is_answer, is_number, is_yes_or_no


@pytest.mark.parametrize(
    ("output", "part"),
    [
        (" dax\nblicket. x", "dax"),
        ("dax. It is\na dax", "dax. It is"),  # a line break counts first
        ("\n\ndax", "dax"),
        ("dax. Yes.", "dax"),
        (".5", ".5"),
        ("3.5", "3"),
        ("dax .", "dax "),
        ("", ""),
    ],
)
def test_an_output_ends_with_its_line_or_first_full_stop(output, part):
    assert answer_part(output) == part


def test_answers_are_equal_without_case_and_nothing_more():
    assert is_answer(" Dax.", "dax") and is_answer("stop\nit", "STOP")
    assert not is_answer("a dax", "dax") and not is_answer("dax!", "dax") and not is_answer("dax .", "dax")
    assert not is_answer("Inc.", "Inc.")  # as in the benchmark's code


def test_the_first_number_counts_without_its_sign():
    assert is_number("= 12 or 13", "12") and is_number("The result is 7.", "7")
    assert not is_number("112", "12") and not is_number("twelve", "12")
    assert not is_number("-3", "-3") and is_number("-3", "3")
    assert is_number("-3", "-3", signed=True) and not is_number("-3", "3", signed=True)


def test_an_output_without_yes_is_a_no():
    assert is_yes_or_no("Yes, they do", "Yes") and not is_yes_or_no("Yes, they do", "No")
    assert is_yes_or_no("", "No") and is_yes_or_no("no. yes", "No") and is_yes_or_no("yesterday", "Yes")
