"""Weighted mixture of sources, split over ranks and workers, whose position can be saved exactly."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from flamingo.utils.errors import UserError

_BLOCK = 4096


class Mixture(IterableDataset):
    """An endless stream of ``(source name, item)``.

    Draw number n is the same for everybody: its source is a function of (seed, n), its item the
    next of a permutation of that source, a function of (seed, source, epoch). Rank r of R takes the
    draws n with n % R == r, and of these worker w of W every W-th: together they take each draw once.
    The position is the number of draws passed; a stream restored to it continues exactly. Iterating
    anew continues, too.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Any]],
        weights: Mapping[str, float],
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Raises UserError for a source without a weight or without items, and a weight without a source."""
        if sources.keys() != weights.keys():
            raise UserError(f"sources {sorted(sources)} and weights {sorted(weights)} must have the same names")
        for name, weight in weights.items():
            if not 0 < weight < math.inf:
                raise UserError(f"the weight of {name} must be positive and finite, got {weight}")
            if len(sources[name]) == 0:
                raise UserError(f"source {name} is empty")
        if not 0 <= rank < ranks:
            raise UserError(f"rank {rank} must lie in [0, ranks={ranks})")
        self.sources = dict(sources)
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self._names = sorted(sources)
        total = sum(weights.values())
        self._shares = [weights[name] / total for name in self._names]
        self._draws = 0
        self._taken = dict.fromkeys(self._names, 0)
        self._permutations: dict[str, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        shards, shard = self.ranks * workers, number * self.ranks + self.rank
        while True:
            block, within = divmod(self._draws, _BLOCK)
            choices = np.random.default_rng([self.seed, block]).choice(len(self._names), size=_BLOCK, p=self._shares)
            for choice in choices[within:]:
                name = self._names[choice]
                place, mine = self._taken[name], self._draws % shards == shard
                # Moved on before the item is handed out: a state saved after it starts behind it.
                self._taken[name] += 1
                self._draws += 1
                if mine:
                    yield name, self.sources[name][self._item(name, place)]

    def _item(self, name: str, place: int) -> int:
        epoch, within = divmod(place, len(self.sources[name]))
        if self._permutations.get(name, (None,))[0] != epoch:
            rng = np.random.default_rng([self.seed, self._names.index(name), epoch])
            self._permutations[name] = (epoch, rng.permutation(len(self.sources[name])))
        return int(self._permutations[name][1][within])

    def state_dict(self) -> dict[str, Any]:
        """The position, small and free of tensors."""
        return {"draws": self._draws, "taken": dict(self._taken), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError where the position belongs to other sources, other weights or another seed."""
        mine = self._identity()
        theirs = {key: state[key] for key in mine}
        if mine != theirs:
            raise UserError(f"the saved position belongs to another mixture: {theirs}, not {mine}")
        self._draws, self._taken = state["draws"], dict(state["taken"])

    def _identity(self) -> dict[str, Any]:
        lengths = {name: len(self.sources[name]) for name in self._names}
        return {"seed": self.seed, "lengths": lengths, "shares": list(self._shares)}
