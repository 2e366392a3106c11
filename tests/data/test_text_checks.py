"""Warnings about captions in another script or for another tokenizer than the config names."""

# ruff: noqa: RUF001

from collections import namedtuple

import pytest
from PIL import Image as PILImage

from flamingo.data.document import Image
from flamingo.data.records.record import Record, RecordList
from flamingo.data.text_checks import sample_captions, script_problem, tokenizer_problems


class Tokenizer(namedtuple("Tokenizer", "per_character unknown")):
    """Makes several tokens of a character; characters of ``unknown`` become the unknown token."""

    unk_token, unk_token_id = "[UNK]", 7

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        ids = []
        for character in text:
            ids += [7] if character in self.unknown else [1] * self.per_character
        return {"input_ids": ids}


@pytest.mark.parametrize(
    ("caption", "language", "share"),
    [
        ("ein Hund", "de", None),
        ("一只狗", "en", "100%"),
        ("一只狗", "zh", None),
        ("カメラーと犬", "ja", None),
        ("カメラ犬", "zh", "75%"),
        ("собака abc", "ru", None),
        ("соб abcd", "ru", "57%"),
        ("соба abcd", "ru", None),  # half of them
        ("12 !?", "en", None),
        ("कुत्ता", "hi", None),
    ],
)
def test_over_half_of_the_letters_in_another_script_is_a_problem(caption, language, share):
    problem = script_problem([caption, ""], language)
    if share is None:
        assert problem is None
    else:
        assert share in problem and f"language={language}" in problem


def test_unknown_tokens_or_many_tokens_a_character_are_problems():
    assert tokenizer_problems(["abc", "de"], Tokenizer(1, "")) == []
    [unknown] = tokenizer_problems(["abc", "de"], Tokenizer(1, "be"))
    assert "2 of 5 tokens are [UNK]" in unknown
    [several] = tokenizer_problems(["abc"], Tokenizer(3, ""))
    assert "3.0 tokens per character" in several
    assert len(tokenizer_problems(["abc"], Tokenizer(3, "a"))) == 2


@pytest.mark.parametrize(("number", "looked_at"), [(3, 3), (1000, 1000), (2500, 834)])
def test_captions_are_taken_from_the_whole_source(number, looked_at):
    picture = Image(PILImage.new("RGB", (1, 1)))
    source = RecordList([Record(str(i), picture, (f"{i} a", f"{i} b"), None) for i in range(number)], {})
    captions = sample_captions(source)
    assert len(captions) == 2 * looked_at
    assert captions[-1] == ("2499 b" if number == 2500 else f"{number - 1} b")
