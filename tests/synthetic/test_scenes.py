"""Splits of scenes by their combinations, equal everywhere; neighbours differ in one thing."""

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from flamingo.synthetic import scenes
from flamingo.synthetic.scenes import COLOURS, COUNTS, SHAPES, Kind, Scene, neighbours, random_scene, split_of

OBJECTS = [(shape, colour) for shape in SHAPES for colour in COLOURS]
SINGLES = [Scene((Kind(*what, "small"),), None, count, 0) for what in OBJECTS for count in COUNTS]
PAIRS = [Scene((Kind(*a, "small"), Kind(*b, "small")), "vertical", 2, 0) for a, b in combinations(OBJECTS, 2)]
STAR = Scene((Kind("star", "red", "small"),), None, 3, 0)
STAR_AND_RING = Scene((Kind("star", "red", "small"), Kind("ring", "blue", "large")), "horizontal", 2, 0)


def kept(candidates):
    return [scene for scene in candidates if scene.split == "evaluation"]


def test_the_same_tenth_of_combinations_is_held_out_everywhere():
    """Literal values: a split that moves makes scores of released backbones worthless."""
    assert [(s.kinds[0].shape, s.kinds[0].colour, s.count) for s in kept(SINGLES)[:6]] == [
        ("circle", "yellow", 1),
        ("circle", "yellow", 3),
        ("circle", "blue", 4),
        ("square", "red", 1),
        ("square", "yellow", 3),
        ("square", "blue", 3),
    ]
    assert [(s.kinds[0].shape, s.kinds[0].colour, s.kinds[1].shape, s.kinds[1].colour) for s in kept(PAIRS)[:3]] == [
        ("circle", "red", "square", "red"),
        ("circle", "red", "square", "green"),
        ("circle", "red", "square", "purple"),
    ]
    assert (len(SINGLES), len(kept(SINGLES))) == (256, 20)
    assert (len(PAIRS), len(kept(PAIRS))) == (2016, 196)
    assert split_of("name", "baba") == "evaluation" and split_of("name", "babe") == "training"


def test_size_place_order_and_seed_do_not_change_the_split():
    rng = random.Random(0)
    for _ in range(500):
        scene = random_scene(rng, rng.choice(("training", "evaluation")))
        kinds = tuple(replace(kind, size=rng.choice(("small", "large"))) for kind in reversed(scene.kinds))
        axis = scene.axis and rng.choice(("horizontal", "vertical"))
        assert Scene(kinds, axis, scene.count, rng.getrandbits(32)).split == scene.split


@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_random_scenes_are_of_the_split_and_of_all_sorts(split):
    rng = random.Random(0)
    drawn = [random_scene(rng, split) for _ in range(1200)]
    assert {scene.split for scene in drawn} == {split}
    pairs = [scene for scene in drawn if scene.axis]
    assert len(pairs) / 1200 == pytest.approx(0.6, abs=0.04)
    assert Counter(scene.axis for scene in pairs)["vertical"] / len(pairs) == pytest.approx(0.5, abs=0.06)
    for a, b in (scene.kinds for scene in pairs):
        assert (a.shape, a.colour) != (b.shape, b.colour)  # a caption without sizes tells them apart
    assert all(len(scene.kinds) == 1 and scene.count in COUNTS for scene in drawn if not scene.axis)
    kinds = {kind for scene in pairs for kind in scene.kinds}
    assert {(kind.shape, kind.colour) for kind in kinds} == set(OBJECTS) and len(kinds) > 120
    assert len({scene.seed for scene in drawn}) == 1200


def test_the_seed_decides_a_scene():
    expected = (Kind("square", "blue", "small"), Kind("moon", "black", "large"))
    assert random_scene(random.Random(1), "training") == Scene(expected, "vertical", 2, 3387541014)


def changes(scene, other):
    """How many things differ; another place, or one attribute exchanged between the objects, is one thing."""
    pairs = list(zip(scene.kinds, other.kinds))
    differing = [a for one, two in pairs for a in ("shape", "colour", "size") if getattr(one, a) != getattr(two, a)]
    if scene.kinds == other.kinds:
        return (scene.count != other.count) + (scene.axis != other.axis)
    if scene.kinds == other.kinds[::-1]:
        return 1
    exchanged = all(
        sorted(getattr(k, a) for k in scene.kinds) == sorted(getattr(k, a) for k in other.kinds) for a in differing
    )
    one_thing = len(differing) - exchanged if len(set(differing)) == 1 else len(differing)
    return one_thing + (scene.count != other.count) + (scene.axis != other.axis)


def test_neighbours_differ_in_one_thing_and_share_the_split():
    rng = random.Random(0)
    for _ in range(150):
        scene = random_scene(rng, rng.choice(("training", "evaluation")))
        others = neighbours(scene)
        assert {changes(scene, other) for other in others} <= {1}
        assert {other.split for other in others} <= {scene.split}
        assert len(set(others)) == len(others)
        for a, b in (other.kinds for other in others if other.axis):
            assert (a.shape, a.colour) != (b.shape, b.colour)


def test_neighbours_are_all_there_are(monkeypatch):
    monkeypatch.setattr(scenes, "split_of", lambda *parts: "training")
    assert len(neighbours(STAR)) == 7 + 7 + 1 + 3  # shape, colour, size, number
    others = neighbours(STAR_AND_RING)
    assert len(others) == 2 * (7 + 7 + 1) + 3 + 3  # of either object; places; attributes exchanged
    star, ring = STAR_AND_RING.kinds
    for kinds, axis in (((ring, star), "horizontal"), ((star, ring), "vertical"), ((ring, star), "vertical")):
        assert Scene(kinds, axis, 2, 0) in others
    assert replace(STAR_AND_RING, kinds=(Kind("star", "blue", "small"), Kind("ring", "red", "large"))) in others
