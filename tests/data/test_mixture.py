"""Weighted mixtures: shares, exact positions, and a split over ranks and workers that loses nothing."""

from collections import Counter
from itertools import islice

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from flamingo.data.mixture import Mixture

SOURCES = {"pages": range(700), "pairs": range(1000, 1010), "video": range(5000, 5003)}
WEIGHTS = {"pages": 1.0, "pairs": 0.2, "video": 0.03}


def mixture(seed=3, **kwargs):
    return Mixture(SOURCES, WEIGHTS, seed, **kwargs)


def test_sources_come_by_their_weights():
    drawn = Counter(name for name, _ in islice(mixture(), 20_000))
    for name, weight in WEIGHTS.items():
        assert drawn[name] / 20_000 == pytest.approx(weight / 1.23, rel=0.1)


def test_every_epoch_of_a_source_has_each_item_once_in_an_order_of_its_own():
    pairs = [item for name, item in islice(mixture(), 2000) if name == "pairs"]
    epochs = [pairs[i : i + 10] for i in range(0, len(pairs) - 10, 10)]
    assert len(epochs) > 20
    assert all(sorted(epoch) == list(range(1000, 1010)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 0.9 * len(epochs)


def test_the_seed_alone_decides():
    one, two, other = (list(islice(mixture(seed), 500)) for seed in (3, 3, 4))
    assert one == two != other
    # The order of the sources, and that of the items of each.
    assert [name for name, _ in one] != [name for name, _ in other]
    assert [item for name, item in one if name == "pages"][:50] != [i for name, i in other if name == "pages"][:50]


def test_no_two_blocks_and_no_two_sources_are_drawn_alike():
    names = [name for name, _ in islice(mixture(), 3 * 4096)]
    assert names[:4096] != names[4096:8192] != names[8192:]
    twins = Mixture({"a": range(100), "b": range(100)}, {"a": 1.0, "b": 1.0}, seed=0)
    drawn = list(islice(twins, 200))
    a, b = ([item for name, item in drawn if name == source][:80] for source in "ab")
    assert a != b


@pytest.mark.parametrize("stop", [0, 1, 777, 4095, 4096, 5000])
def test_a_restored_position_continues_exactly(stop):
    """Across the borders of epochs and blocks too."""
    stream = mixture()
    before = iter(stream)
    list(islice(before, stop))
    state = stream.state_dict()
    expected = list(islice(before, 900))
    restored = mixture()
    restored.load_state_dict(state)
    assert list(islice(restored, 900)) == expected


def test_ranks_share_the_draws_without_loss_or_repetition():
    whole = list(islice(mixture(), 900))
    ranks = [list(islice(mixture(rank=r, ranks=3), 300)) for r in range(3)]
    assert [draw for together in zip(*ranks) for draw in together] == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_resumes_with_its_workers(workers):
    def loader():
        return StatefulDataLoader(mixture(rank=1, ranks=2), batch_size=5, num_workers=workers)

    first = loader()
    before = iter(first)
    seen = list(islice(before, 7))
    state = first.state_dict()
    expected = list(islice(before, 12))
    resumed = loader()
    resumed.load_state_dict(state)
    actual = list(islice(resumed, 12))
    assert [list(map(str, names)) for names, _ in actual] == [list(map(str, names)) for names, _ in expected]
    assert all((a[1] == e[1]).all() for a, e in zip(actual, expected))
    # However many workers, these are the draws of rank 1, each once.
    drawn = Counter(item for _, items in seen + expected for item in items.tolist())
    mine = Counter(item for _, item in islice(mixture(rank=1, ranks=2), drawn.total() + 10))
    assert drawn <= mine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": 1.0}}, r"sources \['a', 'b'\] and weights \['a'\] must have the same names"),
        ({"weights": {"a": 1.0, "b": 0.0}}, r"the weight of b must be positive and finite, got 0\.0"),
        ({"sources": {"a": [1], "b": []}}, "source b is empty"),
        ({"rank": 2, "ranks": 2}, r"rank 2 must lie in \[0, ranks=2\)"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(change, message):
    settings = {"sources": {"a": [1], "b": [2]}, "weights": {"a": 1.0, "b": 1.0}, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        Mixture(**settings)


def test_a_position_of_another_mixture_is_refused():
    state = mixture().state_dict()
    with pytest.raises(ValueError, match="belongs to another mixture"):
        mixture(seed=4).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to another mixture"):
        Mixture({**SOURCES, "video": range(4)}, WEIGHTS, 3).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to another mixture"):
        Mixture(SOURCES, {**WEIGHTS, "video": 0.05}, 3).load_state_dict(state)
