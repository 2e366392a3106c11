"""ROUGE-L of two captions, and whether it reaches a limit."""

from collections import Counter
from collections.abc import Sequence

#: The weight of recall, as in coco-caption.
_BETA = 1.2


def rouge_l(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """Returns the F-score of the longest common subsequence of the words; 0 if no word is common.

    Args:
        candidate: The words whose precision is measured.
        reference: The words whose recall is measured.
    """
    return _f_score(_common_subsequence(candidate, reference), len(candidate), len(reference))


def reaches_rouge_l(candidate: Sequence[str], reference: Sequence[str], least: float) -> bool:
    """Returns whether ROUGE-L is at least ``least``, which is positive.

    Most pairs are decided without their longest common subsequence: its length is at most the number of common words.
    """
    lengths = (len(candidate), len(reference))
    if _f_score(min(lengths), *lengths) < least:
        return False
    common_words = (Counter(candidate) & Counter(reference)).total()
    if _f_score(common_words, *lengths) < least:
        return False
    return rouge_l(candidate, reference) >= least


def _f_score(common: int, candidate_length: int, reference_length: int) -> float:
    if common == 0:
        return 0.0
    precision = common / candidate_length
    recall = common / reference_length
    return ((1 + _BETA**2) * precision * recall) / (recall + _BETA**2 * precision)


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)  # of the words of `one` so far, with each beginning of `other`
    for word in one:
        diagonal = 0
        for position, other_word in enumerate(other, start=1):
            above = lengths[position]
            if word == other_word:
                lengths[position] = diagonal + 1
            else:
                lengths[position] = max(above, lengths[position - 1])
            diagonal = above
    return lengths[-1]
