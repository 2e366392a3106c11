"""The order of draws: exact, well mixed permutations as pure functions, and quotas of mixtures."""

import math
from collections import Counter
from itertools import pairwise

import pytest

from flamingo.data.order import BLOCK, Mixture, Shuffled, index_at
from flamingo.utils.errors import UserError


def epoch_of(n, seed=0, epoch=0):
    return [index_at(epoch * n + i, n, seed) for i in range(n)]


def excess(counts, cells):
    """Of counts that should be equal: by how many standard deviations their chi-squared exceeds its mean."""
    expected = sum(counts.values()) / cells
    squares = sum((count - expected) ** 2 for count in counts.values()) + (cells - len(counts)) * expected**2
    return (squares / expected - (cells - 1)) / math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("sizes", [range(1, 130), (255, 256, 257, 1000, 1023, 1024, 1025)])
def test_an_epoch_has_each_index_once(sizes):
    for n in sizes:
        assert sorted(epoch_of(n, seed=n)) == list(range(n))


@pytest.mark.full
def test_an_epoch_of_many_items_has_each_index_once():
    for n in (*range(130, 1300, 61), 16_384, 65_537):
        assert sorted(epoch_of(n)) == list(range(n))


def test_the_order_depends_on_seed_and_epoch():
    orders = [epoch_of(50, seed, epoch) for seed in (0, 1, "0 pairs") for epoch in range(10)]
    assert len({tuple(order) for order in orders}) == 30
    assert epoch_of(50, 1, 7) == epoch_of(50, 1, 7)


def test_the_order_stays_as_it_is():
    """A run that is resumed after an update of this package must see the same order."""
    assert epoch_of(10, seed=0) == [9, 6, 8, 1, 2, 0, 7, 4, 3, 5]
    assert [index_at(p, 10**9, seed=7) for p in (0, 1, 10**9 - 1, 10**9, 10**15)] == [
        233992731,
        970593758,
        565943983,
        194985889,
        757236650,
    ]


@pytest.mark.parametrize("n", [10**9, 10**12, 2**63])
def test_any_number_of_items_takes_no_memory(n):
    """What takes memory or time by the number of items could not be computed here at all."""
    first = [index_at(p, n, seed=3) for p in range(300)]
    late = [index_at(10**9 + p, n, seed=3) for p in range(300)]
    for drawn in (first, late):
        assert len(set(drawn)) == 300
        assert all(0 <= index < n for index in drawn)
        assert Counter(index * 3 // n for index in drawn).keys() == {0, 1, 2}


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_permutations_of_few_items_are_uniform_over_seeds(n):
    counts = Counter(tuple(epoch_of(n, seed)) for seed in range(1500))
    assert len(counts) == math.factorial(n)
    assert excess(counts, math.factorial(n)) < 4


@pytest.mark.full
@pytest.mark.parametrize("n", [6, 7])
def test_permutations_of_more_items_are_uniform_over_epochs(n):
    """Also the odd ones, which a Feistel network on bits does not have."""
    counts = Counter(tuple(epoch_of(n, 0, epoch)) for epoch in range(10_000))
    assert len(counts) > 0.8 * math.factorial(n)
    assert excess(counts, math.factorial(n)) < 4


@pytest.mark.parametrize("n", [9, 16, 30])
def test_neighbours_and_first_items_are_uniform_over_seeds(n):
    seeds = range(1500)
    assert excess(Counter(index_at(0, n, seed) for seed in seeds), n) < 4
    for position in (0, n // 2):
        pairs = Counter((index_at(position, n, seed), index_at(position + 1, n, seed)) for seed in seeds)
        assert excess(pairs, n * (n - 1)) < 4


def test_neighbours_of_one_long_order_are_unrelated():
    """Of 8,000 items in one order: their differences, and how often they rise, are those of random numbers."""
    n = 8_000
    order = epoch_of(n, seed=5)
    differences = Counter((after - before) % n * 40 // n for before, after in pairwise(order))
    assert excess(differences, 40) < 4
    cells = Counter((before * 12 // n, after * 12 // n) for before, after in pairwise(order))
    assert excess(cells, 144) < 4
    places = Counter((i * 12 // n, index * 12 // n) for i, index in enumerate(order))
    assert excess(places, 144) < 4
    follows = sum(after - before == 1 for before, after in pairwise(order))
    assert follows < 8  # of random numbers one, on average


def test_shuffled_items_are_those_of_the_sequence():
    drawn = Shuffled("abcde", seed=1)
    epochs = ["".join(drawn[5 * epoch + i] for i in range(5)) for epoch in range(30)]
    assert all(sorted(epoch) == list("abcde") for epoch in epochs)
    assert len(set(epochs)) > 15
    with pytest.raises(UserError, match="without items"):
        Shuffled([], seed=0)


# ----------------------------------------------------------------------------------- mixtures

SOURCES = {"pages": Shuffled(range(700), 0), "pairs": Shuffled(range(1000, 1010), 0), "video": range(5000, 10**9)}
WEIGHTS = {"pages": 1.0, "pairs": 0.2, "video": 0.03}


def test_each_source_has_its_quota_in_every_block():
    mixture = Mixture(SOURCES, WEIGHTS, seed=3)
    for block in (0, 1, 10**9):
        drawn = Counter(mixture.source_at(block * BLOCK + i)[0] for i in range(BLOCK))
        assert drawn == mixture.quotas
    assert sum(mixture.quotas.values()) == BLOCK
    for name, weight in WEIGHTS.items():
        assert abs(mixture.quotas[name] - weight / 1.23 * BLOCK) < 1


def test_the_largest_remainders_are_rounded_up():
    sources = dict.fromkeys("abc", range(10))
    # Exact quotas 1365.33, 2047.27, 683.4: the one position that is left goes to c.
    total = 1365.33 + 2047.27 + 683.4
    assert total == pytest.approx(BLOCK)
    mixture = Mixture(sources, {"a": 1365.33, "b": 2047.27, "c": 683.4}, seed=0)
    assert mixture.quotas == {"a": 1365, "b": 2047, "c": 684}
    assert Mixture(sources, {"a": 2.0, "b": 1.0, "c": 1.0}, 0).quotas == {"a": 2048, "b": 1024, "c": 1024}


def test_each_source_is_read_in_the_order_of_its_own_positions():
    mixture = Mixture(SOURCES, WEIGHTS, seed=3)
    places = {name: [] for name in SOURCES}
    for position in range(2 * BLOCK + 77):
        name, place = mixture.source_at(position)
        places[name].append(place)
    for own in places.values():
        assert own == list(range(len(own)))
    name, place = mixture.source_at(10**9)
    assert place == 10**9 // BLOCK * mixture.quotas[name] + place % mixture.quotas[name]
    assert mixture[10**9] == SOURCES[name][place]


def test_sources_alternate_as_random_draws_do():
    """No source waits for another: in any 64 positions each has about its share."""
    mixture = Mixture({"a": range(9), "b": range(9)}, {"a": 1.0, "b": 3.0}, seed=0)
    names = [mixture.source_at(position)[0] for position in range(BLOCK)]
    shares = [names[start : start + 64].count("a") for start in range(0, BLOCK, 64)]
    assert 2 < min(shares) < 14 < 18 < max(shares) < 32
    other = Mixture({"a": range(9), "b": range(9)}, {"a": 1.0, "b": 3.0}, seed=1)
    assert names != [other.source_at(position)[0] for position in range(BLOCK)]


def test_mixtures_of_mixtures_are_data_sets_too():
    inner = Mixture({"a": Shuffled("ab", 0), "b": Shuffled("cd", 0)}, {"a": 1.0, "b": 1.0}, seed=0)
    outer = Mixture({"inner": inner, "e": Shuffled("e", 0)}, {"inner": 2.0, "e": 2.0}, seed=1)
    drawn = Counter(outer[position] for position in range(BLOCK))
    assert drawn["e"] == BLOCK // 2
    assert all(drawn[letter] == pytest.approx(BLOCK / 8, rel=0.2) for letter in "abcd")


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        ("ab", {"a": 1.0}, r"\['a', 'b'\].*\['a'\]"),
        ("ab", {"a": 1.0, "b": 0.0}, "weight of b"),
        ("ab", {"a": 1.0, "b": math.inf}, "weight of b"),
        ("ab", {"a": 1.0, "b": math.nan}, "weight of b"),
        ("ab", {"a": 1.0, "b": 0.0001}, "weight of b"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(sources, weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture({name: [1] for name in sources}, weights, seed=0)


def test_the_source_of_least_weight_has_one_position_of_a_block():
    mixture = Mixture({"a": [1], "b": [1]}, {"a": BLOCK - 1.0, "b": 1.0}, seed=0)
    assert mixture.quotas == {"a": BLOCK - 1, "b": 1}
