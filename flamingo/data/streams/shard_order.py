"""The order of a source in shards: which sample of which shard comes where, from the numbers of samples alone.

In each epoch the shards are shuffled and dealt to the streams. A stream reads its shards one after the other, and
shuffles within windows of consecutive samples. Memory is some numbers for each shard, and no draw depends on the draws
before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

from flamingo.data.order import hash_of, index_at
from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError

#: Constants of SplitMix64, a hash of 64 bits.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Place:
    """A sample in an epoch of a source."""

    shard: int
    #: The number of the sample in its shard.
    sample: int
    #: The position in the order of the source, over all epochs. No other draw of the source has it.
    position: int


class ShardOrder:
    """The order of a source: for each group of each stream, the places of its samples.

    In each epoch each sample is drawn once. A stream has as many samples as the others, or one more. They are those of
    its own shards. A stream whose shards have too few samples continues with the last samples of streams whose shards
    have too many; the shards of any two streams differ by at most the samples of the largest shard.

    The samples of a stream's epoch are divided evenly into as many groups as groups of ``group_size`` need. All streams
    have the same number of groups in an epoch.
    """

    def __init__(
        self, samples: Int64[np.ndarray, " shards"], streams: int, group_size: int, window: int, seed: int | str
    ) -> None:
        """Makes the order.

        Args:
            samples: The number of samples of each shard.
            streams: The number of streams.
            group_size: The largest number of samples of a group.
            window: The samples among which a stream shuffles.
            seed: The seed of the order.

        Raises:
            UserError: If there are fewer samples than streams.
        """
        whole("streams", streams, least=1)
        whole("group_size", group_size, least=1)
        whole("window", window, least=1)
        self.samples = samples
        self.num_samples = int(self.samples.sum())
        if self.num_samples < streams:
            raise UserError(
                f"streams={streams} is more than the {self.num_samples} samples of the source: lower streams"
            )
        self.streams = streams
        self.window = window
        self.seed = seed
        largest_share = math.ceil(self.num_samples / streams)
        #: The groups of an epoch in each stream.
        self.groups_per_epoch = math.ceil(largest_share / group_size)
        # Two epochs: streams pass from one to the next at slightly different times.
        self._epoch = lru_cache(maxsize=2)(self._dealt)

    def group(self, stream: int, number: int) -> list[Place]:
        """Returns the places of the samples of a group.

        Args:
            stream: The stream.
            number: The number of the group in the stream, over all epochs.
        """
        epoch, group = divmod(number, self.groups_per_epoch)
        share = self._share(stream)
        first = group * share // self.groups_per_epoch
        stop = (group + 1) * share // self.groups_per_epoch
        dealt = self._epoch(epoch)
        begin = epoch * self.num_samples + self._before(stream)
        places = []
        for index in range(first, stop):
            shard, sample = dealt.sample(stream, self._shuffled(epoch, stream, index, share))
            places.append(Place(shard, sample, begin + index))
        return places

    def opened(self, stream: int, epoch: int = 0) -> dict[int, int]:
        """Returns the shards that a stream opens in an epoch, each with the number of samples that it reads there."""
        return self._epoch(epoch).opened(stream)

    def _share(self, stream: int) -> int:
        """Returns the number of samples of a stream in an epoch."""
        return self._before(stream + 1) - self._before(stream)

    def _before(self, stream: int) -> int:
        """Returns the number of samples of the streams before this one in an epoch."""
        smallest_share, num_larger = divmod(self.num_samples, self.streams)
        return stream * smallest_share + min(stream, num_larger)

    def _shuffled(self, epoch: int, stream: int, index: int, share: int) -> int:
        """Returns the index, in the order of the stream's shards, of the sample at ``index`` of its epoch."""
        window, within = divmod(index, self.window)
        first = window * self.window
        size = min(self.window, share - first)
        return first + index_at(within, size, f"{self.seed} {epoch} {stream} {window}")

    def _dealt(self, epoch: int) -> "_DealtShards":
        shares = np.diff([self._before(stream) for stream in range(self.streams + 1)])
        return _DealtShards(self.samples, shares, f"{self.seed} {epoch}")


class _DealtShards:
    """The shards of an epoch, dealt to streams."""

    def __init__(self, samples: Int64[np.ndarray, " shards"], shares: Int64[np.ndarray, " streams"], key: str) -> None:
        """Deals the shards.

        The shards are sorted by size and dealt in rounds, one shard to each stream, in random order. The sizes of a
        round are similar, and the differences of all rounds sum up to no more than the largest size.

        Args:
            samples: The number of samples of each shard.
            shares: The number of samples of each stream.
            key: The seed of this epoch.
        """
        num_streams = len(shares)
        numbers = np.arange(len(samples))
        shuffled = np.argsort(hashes(numbers, f"{key} ties"), kind="stable")
        decreasing = np.argsort(-samples[shuffled], kind="stable")
        by_size = shuffled[decreasing]
        rounds = numbers // num_streams
        streams = numbers % num_streams
        dealt = by_size[_shuffled_within(rounds, f"{key} deal")]
        #: The shards of the first stream in its order, then those of the second one, ...
        self.shards = dealt[_shuffled_within(streams, f"{key} order")]
        sizes = samples[self.shards]
        #: The number of samples up to the end of each of these shards.
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        num_shards = np.bincount(streams, minlength=num_streams)
        with_zero = np.concatenate([[0], self.ends])
        samples_until = with_zero[np.cumsum(num_shards)]
        #: For each stream: the samples of its shards, and those of the streams before.
        self.own = np.diff(samples_until, prepend=0)
        self.before = samples_until - self.own
        self.samples = samples
        self.shares = shares
        missing = np.maximum(shares - self.own, 0)
        surplus = np.maximum(self.own - shares, 0)
        #: The samples that the streams before lack; those that the streams up to each one have too many.
        self.lacked = np.cumsum(missing) - missing
        self.spare = np.cumsum(surplus)

    def sample(self, stream: int, index: int) -> tuple[int, int]:
        """Returns the shard and the sample in it at ``index`` of a stream's share."""
        owner = stream
        if index >= self.own[stream]:
            number = self.lacked[stream] + index - self.own[stream]
            owner = np.searchsorted(self.spare, number, side="right")
            spare_before = self.spare[owner - 1] if owner > 0 else 0
            index = self.shares[owner] + number - spare_before
        place = self.before[owner] + index
        slot = np.searchsorted(self.ends, place, side="right")
        sample = place - self.starts[slot]
        return int(self.shards[slot]), int(sample)

    def opened(self, stream: int) -> dict[int, int]:
        """Returns the shards of the samples of a stream's share, each with the number of these samples."""
        num_samples: dict[int, int] = {}
        index = 0
        while index < self.shares[stream]:
            shard, sample = self.sample(stream, index)
            # The samples of a shard that follow are all the stream's, unless its share ends before.
            left = min(int(self.samples[shard]) - sample, int(self.shares[stream]) - index)
            num_samples[shard] = num_samples.get(shard, 0) + left
            index += left
        return num_samples


def _shuffled_within(parts: Int64[np.ndarray, " n"], key: str) -> Int64[np.ndarray, " n"]:
    """Returns the indices of the parts in increasing order, those of equal parts in random order."""
    numbers = np.arange(len(parts))
    low_bits = hashes(numbers, key) >> np.uint64(32)
    high_bits = parts.astype(np.uint64) << np.uint64(32)
    return np.argsort(high_bits | low_bits, kind="stable")


def hashes(numbers: Int64[np.ndarray, " n"], key: str) -> UInt64[np.ndarray, " n"]:
    """Returns a hash of each number, the same on every machine: SplitMix64 whose seed is the hash of ``key``."""
    seed = np.uint64(hash_of(key))
    states = seed + numbers.astype(np.uint64) * _STEP
    mixed_once = _folded(states, 30) * _FIRST_FACTOR
    mixed_twice = _folded(mixed_once, 27) * _SECOND_FACTOR
    return _folded(mixed_twice, 31)


def _folded(values: UInt64[np.ndarray, " n"], shift: int) -> UInt64[np.ndarray, " n"]:
    """Returns the values with their high bits added to their low bits, without carry."""
    return values ^ (values >> np.uint64(shift))


def limited(samples: Sequence[int] | Int64[np.ndarray, " shards"], limit: int | None) -> Int64[np.ndarray, " shards"]:
    """Returns the numbers of samples of the shards up to ``limit`` samples in all; None: all of them."""
    samples = np.asarray(samples, dtype=np.int64)
    if limit is None:
        return samples
    before = np.cumsum(samples) - samples
    return np.clip(limit - before, 0, samples)
