"""Dialects: their words, parsing, and equality."""

import random
from dataclasses import replace
from itertools import product

import pytest

from flamingo.synthetic.grammar import (
    ARTICLES,
    CHOICES,
    ENDINGS,
    OPENINGS,
    PLAIN,
    Dialect,
    attribute_accuracy,
    attributes,
    caption,
    parse,
    random_dialect,
)
from flamingo.synthetic.scenes import Kind, Scene, random_scene

STAR, RING, CROSS = Kind("star", "orange", "small"), Kind("ring", "blue", "large"), Kind("cross", "black", "large")
ONE, THREE = Scene((STAR,), None, 1, 0), Scene((CROSS,), None, 3, 0)
BESIDE, OVER = Scene((STAR, RING), "horizontal", 2, 0), Scene((STAR, RING), "vertical", 2, 0)


@pytest.mark.parametrize(
    ("choices", "one", "three"),
    [
        ({}, "a small orange star", "three large black crosses"),
        ({"mention": 1}, "an orange star", "three black crosses"),
        ({"mention": 2}, "a small star", "three large crosses"),
        ({"order": 1}, "an orange small star", "three black large crosses"),
        ({"order": 2}, "a star that is orange and small", "three crosses that are black and large"),
        ({"order": 2, "mention": 1}, "a star that is orange", "three crosses that are black"),
        ({"order": 2, "mention": 2}, "a star that is small", "three crosses that are large"),
        ({"order": 3}, "a small star in orange", "three large crosses in black"),
        ({"order": 3, "mention": 1}, "a star in orange", "three crosses in black"),
        ({"article": 1}, "one small orange star", "three large black crosses"),
        ({"article": 2, "numbers": 1}, "the small orange star", "the 3 large black crosses"),
        ({"article": 3}, "small orange star", "three large black crosses"),
        ({"numbers": 2}, "a small orange star", "a trio of large black crosses"),
        ({"numbers": 2, "article": 2}, "the small orange star", "the trio of large black crosses"),
        ({"numbers": 2, "article": 3}, "small orange star", "a trio of large black crosses"),
        ({"shapes": 1, "colours": 1, "sizes": 1}, "a little amber spark", "three big ebony pluses"),
        ({"sizes": 2, "mention": 2, "ending": 3}, "a tiny star, as you see.", "three huge crosses, as you see."),
        ({"opening": 3, "order": 1, "colours": 1}, "look, an amber small star", "look, three ebony large crosses"),
        ({"opening": 1, "ending": 1}, "a picture of a small orange star.", "a picture of three large black crosses."),
    ],
)
def test_one_kind_in_words(choices, one, three):
    assert caption(ONE, Dialect(**choices)) == one
    assert caption(THREE, Dialect(**choices)) == three


@pytest.mark.parametrize(
    ("choices", "beside", "over"),
    [
        ({}, "a small orange star left of a large blue ring", "a small orange star above a large blue ring"),
        (
            {"relations": 1, "mention": 1, "article": 2},
            "the orange star to the left of the blue ring",
            "the orange star on top of the blue ring",
        ),
        (
            {"relations": 1, "mention": 2},
            "a small star to the left of a large ring",
            "a small star on top of a large ring",
        ),
        (
            {"relations": 2, "order": 3, "article": 3, "opening": 2, "ending": 5},
            "we see small star in orange west of large ring in blue in plain sight.",
            "we see small star in orange north of large ring in blue in plain sight.",
        ),
        (
            {"relations": 2, "order": 2, "shapes": 1, "colours": 1},
            "a spark that is amber and small west of a hoop that is azure and large",
            "a spark that is amber and small north of a hoop that is azure and large",
        ),
    ],
)
def test_two_objects_in_words(choices, beside, over):
    assert caption(BESIDE, Dialect(**choices)) == beside
    assert caption(OVER, Dialect(**choices)) == over


def test_attributes_are_what_the_dialect_mentions():
    assert attributes(THREE) == {"0.shape": "cross", "0.colour": "black", "0.size": "large", "count": 3}
    assert attributes(BESIDE, Dialect(mention=1)) == {
        "0.shape": "star",
        "0.colour": "orange",
        "1.shape": "ring",
        "1.colour": "blue",
        "axis": "horizontal",
    }
    assert attributes(ONE, Dialect(mention=2)) == {"0.shape": "star", "0.size": "small", "count": 1}


def test_every_caption_is_read_back_as_what_it_says():
    rng = random.Random(0)
    for _ in range(2000):
        split = rng.choice(("training", "evaluation"))
        scene, dialect = random_scene(rng, split), random_dialect(rng, split)
        text = caption(scene, dialect)
        assert parse(text) == attributes(scene, dialect), text
        assert attribute_accuracy(scene, dialect, text) == 1.0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a small orange star left of a large blue ring", 7),
        ("Behold the tiny spark in amber west of one hoop in azure that is huge!", 7),  # another dialect
        ("a large blue ring left of a small orange star", 1),  # the objects exchanged
        ("a small orange star right of a large blue ring", 0),  # no dialect says so
        ("a small orange star above a large blue ring", 6),
        ("a small blue star left of a large orange ring", 5),
        ("a large orange star left of a small blue ring", 5),
        ("a small orange ring left of a large blue star", 5),
        ("a small star left of a blue ring", 5),
        ("a small orange star", 3),
        ("a large blue ring", 0),  # which would be the first
        ("a small orange star ring left of a large blue ring", 4),  # two shapes: an object that cannot be read
        ("a small orange red star left of a large blue ring", 4),
        ("a small orange left of a large blue", 1),
        ("a small orange star left of a large blue ring left of a star", 0),
        ("nothing that anybody could see", 0),
        ("", 0),
    ],
)
def test_attribute_accuracy_is_the_share_that_is_right(text, right):
    assert attribute_accuracy(BESIDE, PLAIN, text) == pytest.approx(right / 7)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("three large black crosses", 4),
        ("we see a trio of big pluses that are ebony, nothing more.", 4),
        ("the 2 large black crosses", 3),
        ("a large black cross", 3),
        ("three large black rings", 3),
        ("three large crosses", 3),
        ("three large black things", 0),
        ("three large black crosses above a ring", 3),  # no number of a pair
    ],
)
def test_attribute_accuracy_counts_the_number(text, right):
    assert attribute_accuracy(THREE, PLAIN, text) == right / 4


def test_what_a_dialect_leaves_out_is_not_asked_for():
    assert attribute_accuracy(THREE, Dialect(mention=1), "three small black crosses") == 1.0
    assert attribute_accuracy(THREE, Dialect(mention=1), "three black rings") == pytest.approx(2 / 3)
    assert attribute_accuracy(THREE, Dialect(mention=2), "three large red crosses") == 1.0


def assert_canonical_forms_are_sayings(dialects):
    """Dialects have the same canonical form exactly where they say the same of all scenes."""
    scenes = [ONE, THREE, BESIDE, OVER]  # which have everything that dialects differ in
    form_of = {}
    for dialect in dialects:
        sayings = tuple(caption(scene, dialect) for scene in scenes)
        assert form_of.setdefault(sayings, dialect.canonical) == dialect.canonical
        assert dialect.canonical.canonical == dialect.canonical
        assert tuple(caption(scene, dialect.canonical) for scene in scenes) == sayings
    assert len(set(form_of.values())) == len(form_of)


def test_dialects_are_the_same_exactly_if_they_say_the_same():
    rng = random.Random(0)
    frame = ("opening", "ending", "article", "relations")
    inner = [name for name in CHOICES if name not in frame]
    ranges = [range(CHOICES[name]) for name in inner]
    assert_canonical_forms_are_sayings(Dialect(**dict(zip(inner, choice))) for choice in product(*ranges))
    frames = product(range(len(OPENINGS)), range(len(ENDINGS)), range(len(ARTICLES)))
    assert_canonical_forms_are_sayings(Dialect(*choice, order=2) for choice in frames)
    drawn = [Dialect(**{name: rng.randrange(n) for name, n in CHOICES.items()}) for _ in range(500)]
    twins = [replace(dialect, sizes=0, colours=0) for dialect in drawn]
    assert_canonical_forms_are_sayings(drawn + twins)
    assert {d.split == d.canonical.split for d in drawn} == {True}
    # As many as the README says.
    frames_times_inner = len({Dialect(**dict(zip(inner, choice))).canonical for choice in product(*ranges)})
    for name in frame:
        frames_times_inner *= CHOICES[name]
    assert frames_times_inner == 124_416


def test_the_same_tenth_of_dialects_is_held_out_everywhere():
    """Literal values: a split that moves makes scores of released backbones worthless."""
    kept = [
        (opening, ending) for opening in range(8) for ending in range(6) if Dialect(opening, ending).split != "training"
    ]
    assert kept == [(1, 3)]
    assert PLAIN.split == "training"
    assert str(random_dialect(random.Random(0), "training")) == "6-3-0-2-2-1-0-1-1-1"
    assert str(random_dialect(random.Random(0), "evaluation")) == "5-3-1-0-2-1-0-2-0-2"


@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_random_dialects_have_their_split_and_every_form(split):
    rng = random.Random(0)
    drawn = [random_dialect(rng, split) for _ in range(400)]
    assert all(dialect.split == split and dialect == dialect.canonical for dialect in drawn)
    assert len(set(drawn)) > 390
    for name, choices in CHOICES.items():
        assert {getattr(dialect, name) for dialect in drawn} == set(range(choices))
