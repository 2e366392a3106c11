"""The members of a tar file by the key of their sample, as M4's tar files have them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flamingo.data.readers.page_fields import damaged
from flamingo.data.readers.tar_members import Member, key_of, members_of

#: A sample's key, and the name, offset and size of each of its members.
KeyedPlace = Sequence[Any]


def keyed_entries(file: Path, is_part: Callable[[str], bool]) -> list[KeyedPlace | str]:
    """Returns the places of the samples of a tar file, and the reason of its damage, if there is any.

    Args:
        file: The tar file.
        is_part: Whether a member belongs to a sample, by its name after the key. Other members are ignored.

    Raises:
        UserError: If the file cannot be read, or is compressed.
    """
    members, damage = members_of(file)
    samples: dict[str, list[Member]] = {}
    for member in members:
        key, name = key_of(member[0])
        if is_part(name):
            samples.setdefault(key, []).append(member)
    return damaged([[key, parts] for key, parts in samples.items()], damage)
