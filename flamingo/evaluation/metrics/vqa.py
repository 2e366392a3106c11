"""VQA accuracy, with the answer processing of the official evaluation code (GT-Vision-Lab/VQA at a013f00)."""

import re
from collections.abc import Sequence

#: The number of other people who must give an answer for the full score.
_FULL_AGREEMENT = 3
#: The fewest answers with which an output can have an accuracy of 1.
MIN_ANSWERS = _FULL_AGREEMENT + 1

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_AROUND_COMMA = re.compile(r"[0-9],[0-9]")
#: The official pattern has a look-behind for digits, with a misprint that makes it match everywhere.
_PERIOD = re.compile(r"\.(?![0-9])")
#: The official code passes re.UNICODE, which is 32, where re.sub expects the number of replacements.
_MAX_PERIODS = 32

_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}

#: A word that lacks one of the apostrophes of these words gets it back.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Returns word without an apostrophe -> word with it."""
    restored = {"somebody'd": "somebodyd"}  # the official list has this one the wrong way round
    for word in _CONTRACTED.split():
        for place, character in enumerate(word):
            if character == "'":
                restored[word[:place] + word[place + 1 :]] = word
    return restored


_CONTRACTIONS = _contractions()


def vqa_accuracy(output: str, answers: Sequence[str]) -> float:
    """Returns the VQA accuracy of an output: the mean over all ways to leave out one of the answers.

    For each answer that is left out, the output scores a third for each other answer that it equals, at most 1. Output
    and answers are processed only if the answers are not all equal. The official code tells answers apart by
    ``answer_id``; here their positions do.

    Args:
        output: The model's answer.
        answers: The answers of people, usually ten.
    """
    stripped = [_without_breaks(answer) for answer in answers]
    given = _without_breaks(output)
    if len(set(stripped)) > 1:
        stripped = [processed(answer) for answer in stripped]
        given = processed(given)
    matches = [answer == given for answer in stripped]
    accuracies = []
    for match in matches:
        others = sum(matches) - match
        accuracies.append(min(1.0, others / _FULL_AGREEMENT))
    return sum(accuracies) / len(accuracies)


def processed(answer: str) -> str:
    """Returns an answer in the form in which answers are compared.

    Punctuation, articles and capitals are removed, words of numbers become digits, and apostrophes are restored.
    """
    words = []
    for word in _without_punctuation(_without_breaks(answer)).lower().split():
        word = _NUMBER_WORDS.get(word, word)
        if word not in _ARTICLES:
            words.append(_CONTRACTIONS.get(word, word))
    return " ".join(words)


def _without_breaks(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(answer: str) -> str:
    """Returns the answer with a space for each mark of punctuation, or with nothing for it.

    Nothing replaces a mark that stands next to a space somewhere in the answer, and any mark of an answer with a comma
    between digits.
    """
    has_number = _DIGITS_AROUND_COMMA.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        is_at_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if is_at_space or has_number else " ")
    return _PERIOD.sub("", text, count=_MAX_PERIODS)
