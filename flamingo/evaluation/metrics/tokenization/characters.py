"""Captions -> characters, for Chinese and Japanese; words and numbers in other scripts stay whole."""

import unicodedata

import regex

#: A character of the scripts of Chinese and Japanese, or a word of another script by Unicode's boundaries (UAX #29).
_CHARACTER = r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}&&[\p{L}\p{N}々〆]]"
_TOKEN = regex.compile(rf"{_CHARACTER}|\b\w.*?\b", regex.WORD | regex.DOTALL | regex.V1)


def tokenize(caption: str) -> str:
    """Returns the caption's characters, separated by single spaces, in lower case and without punctuation.

    Full-width letters and digits become narrow, half-width katakana wide (NFKC).
    """
    text = unicodedata.normalize("NFKC", caption).lower()
    return " ".join(_TOKEN.findall(text))
