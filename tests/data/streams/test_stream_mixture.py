"""The source of a group is a function of its number, by weights, epochs and streams."""

from collections import Counter

import numpy as np
import pytest

from flamingo.data.streams.shard_order import ShardOrder
from flamingo.data.streams.stream_mixture import SourceGroup, StreamMixture
from flamingo.utils.errors import UserError


def order(samples, streams):
    return ShardOrder(np.array([samples], dtype=np.int64), streams, group_size=1, window=1, seed=0)


def mixture(streams=2, samples=(20, 20), weights=(3.0, 1.0), epochs=(None, None)):
    names = ("a", "b")
    orders = {name: order(number, streams) for name, number in zip(names, samples, strict=True)}
    of_names = dict(zip(names, weights, strict=True)), dict(zip(names, epochs, strict=True))
    return StreamMixture(orders, *of_names, streams, seed=0)


def in_stream(made, stream, number, first=0):
    return [made.at(group * made.streams + stream) for group in range(first, first + number)]


def test_group_g_belongs_to_stream_g_mod_s():
    assert [mixture(streams=3).at(group).stream for group in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_each_block_of_a_stream_has_the_quotas_of_the_weights():
    made = mixture()
    for stream, first in ((0, 0), (1, 4096 * 10**6)):
        drawn = in_stream(made, stream, 4096, first)
        assert Counter(group.source for group in drawn) == {"a": 3072, "b": 1024}


def test_the_groups_of_a_source_are_read_in_turn():
    drawn = in_stream(mixture(), 1, 4500)
    for name in "ab":
        numbers = [group.number for group in drawn if group.source == name]
        assert numbers == list(range(len(numbers)))


def test_streams_alternate_in_orders_of_their_own():
    made = mixture()
    first, second = ([group.source for group in in_stream(made, stream, 100)] for stream in range(2))
    assert first != second and set(first) == {"a", "b"}


def test_a_source_ends_after_its_epochs_and_the_others_go_on():
    made = mixture(samples=(20, 12), epochs=(None, 3))  # b has 6 groups of an epoch in each stream
    assert made.num_groups is None
    for stream in range(2):
        drawn = in_stream(made, stream, 1000)
        assert [group.number for group in drawn if group.source == "b"] == list(range(18))
        assert [group.number for group in drawn if group.source == "a"] == list(range(1000 - 18))


def test_each_source_ends_in_its_turn_and_nothing_is_left():
    made = mixture(samples=(4000, 6000), weights=(1.0, 1.0), epochs=(1, 1))
    assert made.num_groups == 10000
    drawn = in_stream(made, 0, 5000)
    for name, number in (("a", 2000), ("b", 3000)):
        assert [group.number for group in drawn if group.source == name] == list(range(number))
    with pytest.raises(UserError, match="10000"):
        made.at(10000)


def test_a_single_source_has_all_groups():
    made = StreamMixture({"a": order(20, 2)}, {"a": 1.0}, {"a": None}, 2, 0)
    assert made.at(2 * 10**12 + 1) == SourceGroup("a", 1, 10**12)


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(UserError, match="weight of b"):
        mixture(weights=(1.0, 0.0))
