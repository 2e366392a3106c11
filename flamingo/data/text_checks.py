"""Signs that captions do not fit the language in the config, or the tokenizer of the language model."""

import math
from collections.abc import Sequence
from typing import Any

import regex

from flamingo.data.records.record import Record
from flamingo.utils.languages import scripts_of

#: The number of records whose captions are checked.
_NUM_RECORDS = 1000
_LETTER = regex.compile(r"\p{L}")


def sample_captions(records: Sequence[Record]) -> list[str]:
    """Returns the captions of at most 1,000 records, evenly spaced."""
    step = max(1, math.ceil(len(records) / _NUM_RECORDS))
    captions: list[str] = []
    for index in range(0, len(records), step):
        captions += records[index].captions
    return captions


def script_problem(captions: Sequence[str], language: str) -> str | None:
    """Returns a sentence if over half of the letters are not of the language's scripts; otherwise None."""
    scripts = scripts_of(language)
    own_letter = regex.compile("|".join(rf"(?=\p{{scx={script}}})\p{{L}}" for script in scripts))
    text = "".join(captions)
    letters = len(_LETTER.findall(text))
    foreign = letters - len(own_letter.findall(text))
    if 2 * foreign <= letters:
        return None
    return (
        f"{foreign / letters:.0%} of the letters of the captions are not of the script of language={language} "
        f"({', '.join(scripts)}): set task.language"
    )


def tokenizer_problems(captions: Sequence[str], tokenizer: Any) -> list[str]:
    """Returns a sentence for each sign that the tokenizer was not made for the captions.

    The signs are unknown tokens, and more than one token per character.
    """
    problems = []
    num_tokens = num_unknown = 0
    for caption in captions:
        ids = tokenizer(caption, add_special_tokens=False)["input_ids"]
        num_tokens += len(ids)
        num_unknown += ids.count(tokenizer.unk_token_id)
    if num_unknown > 0:
        problems.append(
            f"the tokenizer of the language model has no token for parts of the captions: {num_unknown} of "
            f"{num_tokens} tokens are {tokenizer.unk_token}"
        )
    num_characters = sum(len(caption) for caption in captions)
    if num_tokens > num_characters:
        problems.append(
            f"the tokenizer of the language model makes {num_tokens / num_characters:.1f} tokens per character of the "
            "captions: its vocabulary is made for other languages"
        )
    return problems
