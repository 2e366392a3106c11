"""Captions -> words by the word boundaries of Unicode (UAX #29), in lower case and without punctuation."""

import unicodedata

import regex

#: From a word boundary with a letter, mark or digit behind it to the next boundary.
_WORD = regex.compile(r"\b[\w].*?\b", regex.WORD | regex.DOTALL)


def tokenize(caption: str) -> str:
    """Returns the caption's words, with one blank between them.

    Accents are composed first (NFC). Languages that write no blanks between words, such as Thai, get a token for each
    letter with its marks.
    """
    text = unicodedata.normalize("NFC", caption).lower()
    return " ".join(_WORD.findall(text))
