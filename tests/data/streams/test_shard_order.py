"""Each sample of shards of any sizes is drawn once per epoch, by streams that share the shards."""

from collections import Counter

import numpy as np
import pytest

from flamingo.data.streams import shard_order
from flamingo.data.streams.shard_order import Place, ShardOrder, hashes, limited
from flamingo.utils.errors import UserError


def order(samples, streams=2, group_size=2, window=1, seed=0):
    return ShardOrder(np.array(samples, dtype=np.int64), streams, group_size, window, seed)


def epoch_of(made, epoch):
    """The places of all groups of an epoch, stream by stream."""
    groups = range(epoch * made.groups_per_epoch, (epoch + 1) * made.groups_per_epoch)
    return [[made.group(stream, number) for number in groups] for stream in range(made.streams)]


def places(groups):
    return [(place.shard, place.sample) for group in groups for place in group]


@pytest.fixture
def in_order(monkeypatch):
    """Shuffles nothing: all hashes are equal."""
    monkeypatch.setattr(shard_order, "hashes", lambda numbers, key: np.zeros(len(numbers), np.uint64))


def test_shards_are_dealt_and_a_short_stream_takes_spare_samples(in_order):
    # The rounds are (0, 1) and (2): stream 0 gets shards 0 and 2, which have two samples more than its share.
    made = order([4, 2, 2])
    assert made.groups_per_epoch == 2
    first, second = epoch_of(made, 0)
    assert first == [[Place(0, 0, 0), Place(0, 1, 1)], [Place(0, 2, 2), Place(0, 3, 3)]]
    assert second == [[Place(1, 0, 4), Place(1, 1, 5)], [Place(2, 0, 6), Place(2, 1, 7)]]


def test_a_stream_divides_its_share_evenly_into_groups(in_order):
    first, second = epoch_of(order([7], group_size=3), 0)
    assert [len(group) for group in first] == [2, 2] and [len(group) for group in second] == [1, 2]
    assert places(first + second) == [(0, sample) for sample in range(7)]


def test_positions_go_on_in_the_next_epoch(in_order):
    first, second = epoch_of(order([4, 2, 2]), 1)
    assert [place.position for group in first + second for place in group] == list(range(8, 16))


@pytest.mark.parametrize(
    ("samples", "streams", "group_size", "window"),
    [
        ([5, 1, 9, 3, 3, 8], 3, 4, 6),
        ([40], 7, 3, 1000),
        ([0, 3, 0, 0, 8, 2, 0], 4, 1, 2),
        (list(range(12)), 1, 5, 10),
        ([2] * 11, 8, 64, 3),
    ],
)
def test_each_sample_is_drawn_once_per_epoch(samples, streams, group_size, window):
    made = order(samples, streams, group_size, window)
    for epoch in range(3):
        groups = [group for stream in epoch_of(made, epoch) for group in stream]
        expected = {(shard, sample) for shard, number in enumerate(samples) for sample in range(number)}
        assert Counter(places(groups)) == Counter(expected)
        assert max(map(len, groups)) <= group_size
        for stream, of_stream in enumerate(epoch_of(made, epoch)):
            assert made.opened(stream, epoch) == Counter(shard for shard, _ in places(of_stream))
        positions = {place.position for group in groups for place in group}
        assert positions == set(range(epoch * sum(samples), (epoch + 1) * sum(samples)))


def test_epochs_and_seeds_have_orders_of_their_own():
    samples = [10] * 20
    orders = [epoch_of(order(samples), 0), epoch_of(order(samples), 1), epoch_of(order(samples, seed=1), 0)]
    assert len({str(places(streams[0])) for streams in orders}) == 3


def test_a_stream_shuffles_within_its_windows():
    made = order([1000], streams=1, group_size=10, window=50)
    [groups] = epoch_of(made, 0)
    drawn = [sample for _, sample in places(groups)]
    orders = set()
    for first in range(0, 1000, 50):
        window = [sample - first for sample in drawn[first : first + 50]]
        assert sorted(window) == list(range(50))
        orders.add(tuple(window))
    assert len(orders) == 20 and tuple(range(50)) not in orders


def test_a_stream_has_its_own_shards_but_for_the_spare_samples():
    samples = [50 + number for number in range(64)]
    made = order(samples, streams=8, group_size=16, window=100)
    streams_of = Counter()
    for stream in range(8):
        streams_of.update(set(made.opened(stream)))
    # Each of the 8 streams has 8 shards. Those that lack samples share some shards of the others.
    assert len(streams_of) == 64 and sum(streams_of.values()) <= 64 + 8


def test_any_two_streams_differ_by_at_most_the_largest_shard():
    samples = np.random.default_rng(0).integers(1, 1000, 997)
    for epoch in range(5):
        own = order(samples, streams=16)._epoch(epoch).own
        assert own.max() - own.min() <= samples.max()


def test_hashes_are_those_of_splitmix64(monkeypatch):
    monkeypatch.setattr(shard_order, "hash_of", lambda key: 1234567)
    # Published outputs of the reference implementation with this seed, whose first state is number 1.
    assert hashes(np.arange(1, 4), "").tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_limit_takes_the_first_samples():
    assert limited([4, 2, 5], None).tolist() == [4, 2, 5]
    assert limited([4, 2, 5], 7).tolist() == [4, 2, 1]
    assert limited([4, 2, 5], 3).tolist() == [3, 0, 0]


def test_more_streams_than_samples_are_refused():
    with pytest.raises(UserError, match=r"streams=4\b.* 3 "):
        order([2, 1], streams=4)
