"""Scenes of the synthetic benchmark: one to four equal objects, or two different ones."""

import random
from dataclasses import dataclass, replace
from hashlib import blake2b
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
    """The attributes of an object. The scene decides its position and the details of its appearance."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """``count`` objects of one kind; with an ``axis``, two objects of different kinds."""

    #: The kinds of the objects in reading order: from left to right, from top to bottom.
    kinds: tuple[Kind, ...]
    axis: Axis | None
    count: int
    #: The seed of everything without a name: positions, tilts, exact colours, the background.
    seed: int

    @property
    def combination(self) -> tuple:
        """The shapes and colours that occur together, and the number of objects. They determine the split."""
        shapes_and_colours = sorted((kind.shape, kind.colour) for kind in self.kinds)
        return (*shapes_and_colours, self.count)

    @property
    def split(self) -> Split:
        """The split that the scene belongs to."""
        return split_of("scene", self.combination)


def split_of(*parts: object) -> Split:
    """Returns the split of a combination, by a hash. Evaluation has a tenth of all combinations."""
    digest = blake2b(repr(parts).encode(), digest_size=4).digest()
    return "evaluation" if int.from_bytes(digest, "big") % 10 == 0 else "training"


def random_scene(rng: random.Random, split: Split, pairs: float = 0.6) -> Scene:
    """Returns a scene of the split.

    Args:
        rng: The random generator.
        split: The split.
        pairs: The probability that the scene has two different objects.
    """
    pair = rng.random() < pairs
    kinds: tuple[Kind, ...]
    axis: Axis | None
    while True:
        if pair:
            kinds, axis, count = (_random_kind(rng), _random_kind(rng)), rng.choice(AXES), 2
        else:
            kinds, axis, count = (_random_kind(rng),), None, rng.choice(COUNTS)
        scene = Scene(kinds, axis, count, rng.getrandbits(32))
        if scene.split == split and _is_valid(scene):
            return scene


def _is_valid(scene: Scene) -> bool:
    """Returns whether the objects of a pair differ in more than their size."""
    if scene.axis is None:
        return True
    first, second = scene.kinds
    return (first.shape, first.colour) != (second.shape, second.colour)


def _random_kind(rng: random.Random) -> Kind:
    return Kind(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES))


def neighbours(scene: Scene) -> list[Scene]:
    """Returns all scenes of the same split that differ in one thing: hard negatives for contrastive training.

    The one thing is an attribute of an object, the number of objects, the positions of two objects, or an attribute
    that they exchange.
    """
    changed = _attribute_changes(scene)
    if scene.axis is None:
        changed += [replace(scene, count=count) for count in COUNTS]
    else:
        for axis in AXES:
            changed.append(replace(scene, axis=axis))
            changed.append(replace(scene, axis=axis, kinds=scene.kinds[::-1]))
        changed += _attribute_exchanges(scene)
    valid = {other for other in changed if other != scene and other.split == scene.split and _is_valid(other)}
    return sorted(valid, key=repr)


def _attribute_changes(scene: Scene) -> list[Scene]:
    """Returns the scene with every other value of every attribute of every object."""
    changed = []
    for i, kind in enumerate(scene.kinds):
        changed_kinds = [replace(kind, shape=shape) for shape in SHAPES]
        changed_kinds += [replace(kind, colour=colour) for colour in COLOURS]
        changed_kinds += [replace(kind, size=size) for size in SIZES]
        for changed_kind in changed_kinds:
            kinds = list(scene.kinds)
            kinds[i] = changed_kind
            changed.append(replace(scene, kinds=tuple(kinds)))
    return changed


def _attribute_exchanges(scene: Scene) -> list[Scene]:
    """Returns the scene with an attribute exchanged between its two objects. The bag of words stays the same."""
    first, second = scene.kinds
    by_shape = (replace(first, shape=second.shape), replace(second, shape=first.shape))
    by_colour = (replace(first, colour=second.colour), replace(second, colour=first.colour))
    by_size = (replace(first, size=second.size), replace(second, size=first.size))
    return [replace(scene, kinds=kinds) for kinds in (by_shape, by_colour, by_size)]
