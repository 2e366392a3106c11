"""Fonts of the plots: families for the letters of other scripts, and one warning for letters that no font has."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from matplotlib.font_manager import fontManager

log = logging.getLogger(__name__)

#: The family of all plots. matplotlib contains it, so that plots are the same everywhere.
_FAMILY = "DejaVu Sans"
#: Families for letters that it lacks. Only installed ones are used.
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
#: The beginning of matplotlib's warning of a letter without a font.
_MISSING = re.compile(r"Glyph (\d+) .*missing from")


@cache
def font_families() -> list[str]:
    """Returns the families in which matplotlib looks for letters, in this order."""
    installed = set(fontManager.get_font_names())
    return [_FAMILY] + [family for family in _OTHER_FAMILIES if family in installed]


@contextmanager
def missing_letters_logged() -> Iterator[None]:
    """Draws letters that no font has as boxes in the block, and logs one warning that names some of them."""
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
