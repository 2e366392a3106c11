"""Fonts of the plots: families with the letters of other scripts, and one warning for letters that no font has."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from matplotlib.font_manager import fontManager

log = logging.getLogger(__name__)

#: The family of all plots. matplotlib brings it, so that plots are the same everywhere.
_FAMILY = "DejaVu Sans"
#: Families for letters that it lacks, of which those are used that are installed.
_OTHER_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)
#: How matplotlib's warning of a letter without a font begins.
_MISSING = re.compile(r"Glyph (\d+) .*missing from")


@cache
def font_families() -> list[str]:
    """Returns the families in which letters are looked for, in this order."""
    installed = set(fontManager.get_font_names())
    return [_FAMILY] + [family for family in _OTHER_FAMILIES if family in installed]


@contextmanager
def missing_letters_logged() -> Iterator[None]:
    """Within it, letters that no font has are drawn as boxes, and one warning in the log names some of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    letters: dict[str, None] = {}
    for warning in caught:
        missing = _MISSING.match(str(warning.message))
        if missing:
            letters[chr(int(missing[1]))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if letters:
        some = "".join(letters)[:10]
        log.warning("plots: no installed font has %d letters, such as %s: install Noto Sans CJK", len(letters), some)
