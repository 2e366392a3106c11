"""Groups of samples -> their streams and sources: the mixture of several sources in shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int16

from flamingo.data.order import BLOCK, checked_quotas
from flamingo.data.streams.shard_order import ShardOrder, hashes
from flamingo.utils.errors import UserError


@dataclass(frozen=True)
class SourceGroup:
    """A group of samples of one source."""

    source: str
    stream: int
    #: The number of the group among those of the source in the stream, over all epochs.
    number: int


class StreamMixture:
    """The source of each group. Group g belongs to stream g mod S, in which the sources alternate by their weights.

    In each block of 4,096 groups of a stream each source has a fixed quota, as in
    :class:`flamingo.data.order.Mixture`. A source with a limited number of epochs ends, separately in each stream. From
    then on the other sources share its groups by their weights.
    """

    def __init__(
        self,
        orders: Mapping[str, ShardOrder],
        weights: Mapping[str, float],
        epochs: Mapping[str, int | None],
        streams: int,
        seed: int | str,
    ) -> None:
        """Makes the mixture.

        Args:
            orders: The order of each source, with the same number of streams.
            weights: The weight of each source; weights need not sum to 1.
            epochs: The largest number of epochs of each source; None: no limit.
            streams: The number of streams.
            seed: The seed of the order in which sources alternate.

        Raises:
            UserError: For a weight that is out of range.
        """
        checked_quotas(weights)
        self.orders, self.weights = dict(orders), dict(weights)
        self.streams, self.seed = streams, seed
        #: The groups of each source in a stream; None: without end.
        self._groups: dict[str, int | None] = {}
        for name, order in self.orders.items():
            limit = epochs[name]
            self._groups[name] = None if limit is None else limit * order.groups_per_epoch
        self._segments_of = lru_cache(maxsize=None)(self._segments)

    @property
    def num_groups(self) -> int | None:
        """The number of groups until all sources have ended; None if one of them has no end."""
        total = 0
        for number in self._groups.values():
            if number is None:
                return None
            total += number * self.streams
        return total

    def at(self, group: int) -> SourceGroup:
        """Returns the source of a group and the number of the group in it.

        Raises:
            UserError: If all sources have ended before.
        """
        number, stream = divmod(group, self.streams)
        begun = [segment for segment in self._segments_of(stream) if segment.first <= number]
        segment = begun[-1]
        if not segment.names:
            raise UserError(f"all sources have ended after {self.num_groups} groups: raise the epochs of a source")
        block, within = divmod(number - segment.first, BLOCK)
        index = int(segment.slots[within])
        name = segment.names[index]
        before = segment.started[name] + block * segment.quotas[index] + int(segment.earlier[within])
        return SourceGroup(name, stream, before)

    def _segments(self, stream: int) -> "list[_Segment]":
        """Returns the parts of a stream, in each of which the same sources alternate."""
        started = dict.fromkeys(self.orders, 0)
        segments: list[_Segment] = []
        first = 0
        while True:
            names = sorted(name for name in started if started[name] != self._groups[name])
            segment = self._segment(first, names, started, f"{self.seed} {stream} {len(segments)}")
            segments.append(segment)
            left: list[int] = []
            for index, name in enumerate(names):
                groups = self._groups[name]
                if groups is not None:
                    left.append(segment.length_until(index, groups - started[name]))
            if not left:
                return segments
            first += min(left)
            started = started | segment.started_after(min(left))

    def _segment(self, first: int, names: list[str], started: Mapping[str, int], key: str) -> "_Segment":
        """Returns the part of a stream that begins at group ``first``, with the sources that have not ended."""
        if not names:
            return _Segment(first, [], [], np.zeros(0, np.int16), np.zeros(0, np.int16), dict(started))
        quotas = checked_quotas({name: self.weights[name] for name in names})
        numbers = [quotas[name] for name in names]
        slots = np.repeat(np.arange(len(names)), numbers)[np.argsort(hashes(np.arange(BLOCK), key))]
        slots = slots.astype(np.int16)
        earlier = np.zeros(BLOCK, np.int16)
        for index, number in enumerate(numbers):
            earlier[slots == index] = np.arange(number)
        return _Segment(first, names, numbers, slots, earlier, dict(started))


@dataclass(frozen=True)
class _Segment:
    """A part of a stream in which the same sources alternate, in the same order in each block."""

    #: The number of its first group in the stream.
    first: int
    names: list[str]
    #: The groups of each source in a block.
    quotas: list[int]
    #: For each group of a block: the index of its source, and the number of earlier groups of this source.
    slots: Int16[np.ndarray, " block"]
    earlier: Int16[np.ndarray, " block"]
    #: The groups that each source had before.
    started: dict[str, int]

    def length_until(self, index: int, number: int) -> int:
        """Returns the number of groups of the segment up to and with group ``number``, from 1 on, of a source."""
        block, within = divmod(number - 1, self.quotas[index])
        places = np.flatnonzero(self.slots == index)
        return block * BLOCK + int(places[within]) + 1

    def started_after(self, length: int) -> dict[str, int]:
        """Returns the groups that each source had after ``length`` groups of the segment."""
        block, within = divmod(length, BLOCK)
        counts = np.bincount(self.slots[:within], minlength=len(self.names))
        after = {}
        for index, name in enumerate(self.names):
            after[name] = self.started[name] + block * self.quotas[index] + int(counts[index])
        return after
