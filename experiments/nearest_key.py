"""The keys and options that a misspelt one may have meant."""

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches

#: Suggestions for one key.
_MOST = 3


def nearest_keys(key: str, keys: Sequence[str]) -> str:
    """Returns what a user may have meant by a key: keys that are alike, or the keys of its section."""
    last = _last_name(key)
    section = key.removesuffix(last)
    in_section = [known for known in keys if section and known.startswith(section)]
    near = [known for known in keys if _last_name(known) == last] or _with_near_ends(last, in_section or keys)
    if near:
        near.sort(key=lambda known: SequenceMatcher(None, key, known).ratio(), reverse=True)
        return _question(near[:_MOST])
    if in_section:
        names = [known.removeprefix(section) for known in in_section]
        return f": the keys of {section[:-1]} are {', '.join(name for name in names if '.' not in name)}"
    return ": --help lists the keys"


def _with_near_ends(last: str, keys: Sequence[str]) -> list[str]:
    """Returns the keys whose last names are spelt most like a name."""
    near_ends = get_close_matches(last, {_last_name(known) for known in keys}, n=1)
    return [known for known in keys if _last_name(known) in near_ends]


def nearest(name: str, options: Sequence[str]) -> str:
    """Returns the question whether the option was meant that is spelt most like the name; empty if none is near."""
    return _question(get_close_matches(name, options, n=1))


def _last_name(key: str) -> str:
    return key.replace("/", ".").split(".")[-1]


def _question(near: Sequence[str]) -> str:
    return f": did you mean {' or '.join(near)}?" if near else ""
