"""Finds the keys and options that are spelt like a misspelt one."""

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches

#: The largest number of suggestions for one key.
_MOST = 3


def nearest_keys(key: str, keys: Sequence[str]) -> str:
    """Returns suggestions for a misspelt key: keys with a similar name, or the keys of its section."""
    last = _last_name(key)
    section = key.removesuffix(last)
    in_section = []
    if section:
        in_section = [known for known in keys if known.startswith(section)]
    near = [known for known in keys if _last_name(known) == last]
    if not near:
        near = _spelt_alike(last, in_section if in_section else keys)
    if near:
        near.sort(key=lambda known: SequenceMatcher(None, key, known).ratio(), reverse=True)
        return _question(near[:_MOST])
    if not in_section:
        return ": --help lists the keys"
    names = []
    for known in in_section:
        name = known.removeprefix(section)
        if "." not in name:
            names.append(name)
    return f": the keys of {section[:-1]} are {', '.join(names)}"


def nearest(name: str, options: Sequence[str]) -> str:
    """Returns a question with the option that is spelt most like the name; empty if none is similar."""
    return _question(get_close_matches(name, options, n=1))


def _spelt_alike(last: str, keys: Sequence[str]) -> list[str]:
    """Returns the keys whose last part is spelt most like a name."""
    last_names = sorted({_last_name(known) for known in keys})
    nearest_names = get_close_matches(last, last_names, n=1)
    return [known for known in keys if _last_name(known) in nearest_names]


def _last_name(key: str) -> str:
    return key.replace("/", ".").split(".")[-1]


def _question(near: Sequence[str]) -> str:
    if not near:
        return ""
    return f": did you mean {' or '.join(near)}?"
