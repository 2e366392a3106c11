"""The order of draws: which item of a data set comes at each position, as a pure function of seed and position.

A data set is endless: an object whose ``[position]`` is the item of that position. Position p counts the samples of the
data set since the start of training, over all epochs, processes and workers. It is all that resuming needs.
"""

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from flamingo.utils.errors import UserError

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

#: Positions of a mixture in which each source has its fixed quota.
BLOCK = 4096
#: Fewer rounds leave the permutations of fewer than ten items visibly uneven.
_ROUNDS = 12


@runtime_checkable
class Endless(Protocol[Item_co]):
    """A data set without end: the item at a position is a function of that position alone."""

    def __getitem__(self, position: int, /) -> Item_co: ...


def index_at(position: int, n: int, seed: int | str) -> int:
    """Returns the index, below ``n``, of the item at ``position``. Each epoch of ``n`` positions has each index once.

    Time and memory do not depend on ``n`` or ``position``.
    """
    assert n > 0 and position >= 0
    epoch, within = divmod(position, n)
    return _permuted(within, n, f"{seed} {epoch}")


def _permuted(index: int, n: int, key: str) -> int:
    """Returns the image of ``index`` under the permutation of ``range(n)`` that belongs to ``key``.

    The indices fill a grid. Each round rotates every row by a hash of its number, then every column by a hash of its
    number. This is a Feistel network with addition in place of XOR, hence a permutation of the grid. It is repeated
    until it leaves the few cells beyond ``n`` (cycle walking), hence a permutation of ``range(n)``.
    """
    # Rotations of rows of even length are odd permutations: with them all n! permutations can occur.
    columns = math.isqrt(n - 1) // 2 * 2 + 2
    rows = -(-n // columns)
    while True:
        row, column = divmod(index, columns)
        for i in range(0, _ROUNDS, 2):
            column = (column + hash_of(f"{key} {i} {row}")) % columns
            row = (row + hash_of(f"{key} {i + 1} {column}")) % rows
        index = row * columns + column
        if index < n:
            return index


def hash_of(text: str) -> int:
    """Returns 64 bits that are the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class Shuffled(Generic[Item]):
    """The items of a sequence, endlessly: each once per epoch, each epoch in its own order."""

    def __init__(self, items: Sequence[Item], seed: int | str) -> None:
        """Makes the data set.

        Raises:
            UserError: If there are no items.
        """
        if len(items) == 0:
            raise UserError("a data set without items cannot be shuffled")
        self.items, self.seed = items, seed

    def __getitem__(self, position: int) -> Item:
        return self.items[index_at(position, len(self.items), self.seed)]


class Mixture:
    """Items of several endless sources, in the proportions of their weights.

    Each block of 4,096 positions has a fixed quota for each source: its share, rounded by the method of largest
    remainders. The share of a source is therefore off by less than 1 / 4096. The seed decides the order in which the
    sources alternate, the same in each block. Each source is read in the order of its own positions.
    """

    def __init__(self, sources: Mapping[str, Endless[Any]], weights: Mapping[str, float], seed: int | str) -> None:
        """Makes the mixture.

        Args:
            sources: The sources by name.
            weights: The weight of each source; weights need not sum to 1.
            seed: The seed of the order in a block.

        Raises:
            UserError: If a weight is not positive and finite, or too small for one position in a block.
            ValueError: If sources and weights have different names.
        """
        if sources.keys() != weights.keys():
            raise ValueError(f"sources {sorted(sources)} and weights {sorted(weights)} must have the same names")
        self.sources = dict(sources)
        self.quotas = checked_quotas(weights)
        self._slots = self._order_in_a_block(seed)

    def _order_in_a_block(self, seed: int | str) -> list[tuple[str, int]]:
        """Returns the source of each position in a block, and how many positions that source had before."""
        names = [name for name in sorted(self.quotas) for _ in range(self.quotas[name])]
        had = dict.fromkeys(self.quotas, 0)
        slots = []
        for position in range(BLOCK):
            name = names[index_at(position, BLOCK, seed)]
            slots.append((name, had[name]))
            had[name] += 1
        return slots

    def source_at(self, position: int) -> tuple[str, int]:
        """Returns the source of a position, and the position in that source."""
        block, within = divmod(position, BLOCK)
        name, before = self._slots[within]
        return name, block * self.quotas[name] + before

    def __getitem__(self, position: int) -> Any:
        name, place = self.source_at(position)
        return self.sources[name][place]


def checked_quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Returns the number of each source's positions among :data:`BLOCK`.

    Raises:
        UserError: If a weight is not positive and finite, or too small for one position in a block.
    """
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise UserError(f"the weight of {name} must be positive and finite, got {weight}")
    quotas = _quotas(weights)
    for name, quota in quotas.items():
        if quota == 0:
            raise UserError(f"the weight of {name}, {weights[name]}, is less than 1 / {BLOCK} of all weights")
    return quotas


def _quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Returns the number of each source's positions among :data:`BLOCK`, by the method of largest remainders."""
    total = math.fsum(weights.values())
    exact = {name: weights[name] / total * BLOCK for name in sorted(weights)}
    quotas = {name: math.floor(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: quotas[name] - exact[name])
    for name in by_remainder[: BLOCK - sum(quotas.values())]:
        quotas[name] += 1
    return quotas
