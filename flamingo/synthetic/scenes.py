"""What there is to see in the synthetic benchmark: one to four objects of a kind, or two that differ."""

import random
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product
from typing import Literal

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "large")
COUNTS = (1, 2, 3, 4)

Split = Literal["training", "evaluation"]
Axis = Literal["horizontal", "vertical"]
AXES: tuple[Axis, ...] = ("horizontal", "vertical")


@dataclass(frozen=True)
class Kind:
    """What an object is. Where it lies and how exactly it is drawn follows from the scene."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """``count`` objects of one kind; or, with an ``axis``, two of different kinds beside each other.

    ``kinds`` are in reading order: from the left to the right, from the top to the bottom. ``seed``
    decides everything that has no name: places, tilts, exact colours, the background.
    """

    kinds: tuple[Kind, ...]
    axis: Axis | None
    count: int
    seed: int

    @property
    def combination(self) -> tuple:
        """What makes the scene's split: which shapes and colours occur together, and how many."""
        return (*sorted((kind.shape, kind.colour) for kind in self.kinds), self.count)

    @property
    def split(self) -> Split:
        return split_of("scene", self.combination)


def split_of(*parts: object) -> Split:
    """One combination in ten is kept for evaluation, the same ones for everybody."""
    digest = blake2b(repr(parts).encode(), digest_size=4).digest()
    return "evaluation" if int.from_bytes(digest, "big") % 10 == 0 else "training"


def random_scene(rng: random.Random, split: Split, pairs: float = 0.6) -> Scene:
    """A scene of the split; with probability ``pairs`` one of two different objects."""
    pair = rng.random() < pairs
    kinds: tuple[Kind, ...]
    axis: Axis | None
    while True:
        if pair:
            kinds, axis, count = (_random_kind(rng), _random_kind(rng)), rng.choice(AXES), 2
        else:
            kinds, axis, count = (_random_kind(rng),), None, rng.choice(COUNTS)
        scene = Scene(kinds, axis, count, rng.getrandbits(32))
        if scene.split == split and (not pair or tell_apart(scene)):
            return scene


def tell_apart(scene: Scene) -> bool:
    """Whether the two objects of a pair differ in more than their size."""
    first, second = scene.kinds
    return (first.shape, first.colour) != (second.shape, second.colour)


def _random_kind(rng: random.Random) -> Kind:
    return Kind(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES))


def neighbours(scene: Scene) -> list[Scene]:
    """All scenes of the same split that differ in one thing: hard negatives of a contrast.

    One attribute of one object, the number of objects, or the two objects' places.
    """
    changed: list[Scene] = []
    for i, kind in enumerate(scene.kinds):
        for attribute, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
            for value in set(values) - {getattr(kind, attribute)}:
                kinds = (*scene.kinds[:i], replace(kind, **{attribute: value}), *scene.kinds[i + 1 :])
                changed.append(replace(scene, kinds=kinds))
    if scene.axis is None:
        changed += [replace(scene, count=count) for count in COUNTS if count != scene.count]
    else:
        for axis, kinds in product(AXES, (scene.kinds, scene.kinds[::-1])):
            changed.append(replace(scene, axis=axis, kinds=kinds))
        # Attributes exchanged between the objects: what a bag of words would not notice.
        first, second = scene.kinds
        for attribute in ("shape", "colour", "size"):
            swapped = (
                replace(first, **{attribute: getattr(second, attribute)}),
                replace(second, **{attribute: getattr(first, attribute)}),
            )
            changed.append(replace(scene, kinds=swapped))
    return sorted(
        {other for other in changed if other != scene and other.split == scene.split and _valid(other)}, key=repr
    )


def _valid(scene: Scene) -> bool:
    return scene.axis is None or tell_apart(scene)
