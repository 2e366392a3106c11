"""Languages by their codes, such as en, zh or pt-BR, and the scripts that they are written in."""

import re
from typing import Any

from flamingo.utils.errors import UserError

_CODE = re.compile(r"([a-z]{2,3})(?:-[A-Za-z0-9]{2,8})*")
_ARABIC, _CYRILLIC, _DEVANAGARI, _HAN = ("Arabic",), ("Cyrillic",), ("Devanagari",), ("Han", "Bopomofo")
_LATIN = ("Latin",)
#: Language code -> Unicode's names of its scripts, for languages that are not written in Latin letters.
_SCRIPTS = {
    "am": ("Ethiopic",),
    "ar": _ARABIC,
    "as": ("Bengali",),
    "be": _CYRILLIC,
    "bg": _CYRILLIC,
    "bn": ("Bengali",),
    "bo": ("Tibetan",),
    "ckb": _ARABIC,
    "el": ("Greek",),
    "fa": _ARABIC,
    "gu": ("Gujarati",),
    "he": ("Hebrew",),
    "hi": _DEVANAGARI,
    "hy": ("Armenian",),
    "ja": ("Han", "Hiragana", "Katakana"),
    "ka": ("Georgian",),
    "kk": _CYRILLIC + _LATIN,
    "km": ("Khmer",),
    "kn": ("Kannada",),
    "ko": ("Hangul", "Han"),
    "ky": _CYRILLIC,
    "lo": ("Lao",),
    "mk": _CYRILLIC,
    "ml": ("Malayalam",),
    "mn": _CYRILLIC + ("Mongolian",),
    "mr": _DEVANAGARI,
    "my": ("Myanmar",),
    "ne": _DEVANAGARI,
    "or": ("Oriya",),
    "pa": ("Gurmukhi",) + _ARABIC,
    "ps": _ARABIC,
    "ru": _CYRILLIC,
    "sa": _DEVANAGARI,
    "si": ("Sinhala",),
    "sr": _CYRILLIC + _LATIN,
    "ta": ("Tamil",),
    "te": ("Telugu",),
    "tg": _CYRILLIC,
    "th": ("Thai",),
    "ti": ("Ethiopic",),
    "ug": _ARABIC,
    "uk": _CYRILLIC,
    "ur": _ARABIC,
    "uz": _LATIN + _CYRILLIC,
    "yi": ("Hebrew",),
    "yue": _HAN,
    "zh": _HAN,
}


def check_language(key: str, value: Any) -> None:
    """Checks the code of a language.

    Raises:
        UserError: Unless the value is such a code; the error begins with the key.
    """
    if not isinstance(value, str) or _CODE.fullmatch(value) is None:
        raise UserError(f"{key} must be the code of a language, such as en, zh or pt-BR; got {value!r}")


def primary_language(code: str) -> str:
    """Returns the code without script, region and other subtags: ``zh`` for ``zh-Hans``."""
    return code.partition("-")[0]


def scripts_of(code: str) -> tuple[str, ...]:
    """Returns Unicode's names of the scripts of a language; Latin for languages that are not listed."""
    return _SCRIPTS.get(primary_language(code), _LATIN)
