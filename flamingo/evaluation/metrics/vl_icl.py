"""The accuracies of VL-ICL Bench, by the rules of its code (evals/eval.py at 2b77eee)."""

import re

#: The name of the accuracy in result files.
VL_ICL_ACCURACY = "vl_icl_accuracy"


def answer_part(output: str) -> str:
    """Returns the part of an output that is compared: up to its first line break, or else up to its first full stop.

    A full stop at the beginning stays.
    """
    text = output.strip()
    end = text.find("\n")
    if end < 0:
        end = text.find(".")
    return text[:end] if end > 0 else text


def is_answer(output: str, answer: str) -> bool:
    """Returns whether the compared part equals the answer. Upper and lower case are the same."""
    return answer_part(output).lower() == answer.lower()


def is_number(output: str, answer: str, signed: bool = False) -> bool:
    """Returns whether the first number of the compared part is the answer.

    Args:
        output: The output.
        answer: The number.
        signed: Whether a minus belongs to the output's number. The benchmark reads digits alone, so that no output
            equals a negative answer.
    """
    number = re.search(r"-?\d+" if signed else r"\d+", answer_part(output))
    return number is not None and number.group() == answer


def is_yes_or_no(output: str, answer: str) -> bool:
    """Returns whether the compared part has a yes exactly if the answer is yes. Any other output counts as no."""
    return ("yes" in answer_part(output).lower()) == (answer.lower() == "yes")
