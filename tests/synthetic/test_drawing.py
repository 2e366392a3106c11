"""Drawings show the scene: shapes, colours, sizes, places and numbers, at every size."""

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image as PILImage

from flamingo.synthetic.drawing import PAINT, RADIUS, draw, masks
from flamingo.synthetic.scenes import COLOURS, COUNTS, SHAPES, SIZES, Kind, Scene, random_scene


def single(shape, colour="red", size="large", count=1, seed=0):
    return Scene((Kind(shape, colour, size),), None, count, seed)


def pixels(picture):
    return np.asarray(picture).astype(float)


def mask(scene, which=0, size=64):
    """Where an object of the scene is: there alone it matters whether it is white or black."""

    def painted(colour):
        kinds = list(scene.kinds)
        kinds[which] = replace(kinds[which], colour=colour)
        return pixels(draw(replace(scene, kinds=tuple(kinds)), size))

    return (painted("white") - painted("black")).max(-1) > 90


def scenes(number, pairs=0.6):
    rng = random.Random(0)
    return [random_scene(rng, "training", pairs) for _ in range(number)]


def test_a_scene_has_one_picture():
    """Literal values: what is drawn for a seed must stay, as backbones are trained on it."""
    scene = Scene((Kind("star", "red", "large"), Kind("ring", "blue", "small")), "horizontal", 2, 7)
    assert draw(scene) == draw(scene) and draw(scene).mode == "RGB" and draw(scene).size == (64, 64)
    assert draw(replace(scene, seed=8)) != draw(scene)
    small = pixels(draw(scene).resize((4, 4), PILImage.Resampling.BOX))
    assert small[1] == pytest.approx(
        np.array([[168, 160, 141], [167, 168, 147], [153, 171, 164], [163, 177, 163]]), abs=2
    )
    assert small[2, 0] == pytest.approx([178, 109, 100], abs=2)


def test_a_larger_picture_shows_the_same():
    for scene in scenes(40):
        large = draw(scene, 256)
        assert large.size == (256, 256)
        difference = np.abs(pixels(large.resize((64, 64), PILImage.Resampling.BOX)) - pixels(draw(scene)))
        assert difference.mean() < 1  # two scenes differ by 20 to 50


#: Area for radius 1, from the geometry: of the moon, a circle less its overlap with a smaller one.
AREA = {"circle": 2.835, "square": 2.690, "triangle": 1.773, "star": 1.460}
AREA |= {"heart": 2.460, "cross": 2.099, "ring": 2.232, "moon": 1.508}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_shape_has_its_area(shape, size):
    least, most = RADIUS[size]
    for seed in range(4):
        share = mask(single(shape, size=size, seed=seed), size=128).mean()
        assert 0.97 * AREA[shape] * least**2 < share < 1.03 * AREA[shape] * most**2


#: How much of each ninth of its bounding box a shape covers: most (#), some (+), little (.).
LOOKS = {
    "circle": ("+#+", "###", "+#+"),
    "square": ("###", "###", "###"),
    "triangle": (".+.", "+#+", "###"),
    "star": (".+.", "+#+", ".+."),
    "heart": ("###", "###", ".#."),
    "cross": (".#.", "###", ".#."),
    "ring": ("+#+", "#.#", "+#+"),
    "moon": ("+#.", "#+.", "+#."),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_looks_as_it_should_and_stands_upright(shape):
    covered = np.zeros((3, 3))
    for seed in range(12):
        drawn = mask(single(shape, seed=seed), size=128)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        box = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        covered += [[part.mean() for part in np.array_split(row, 3, 1)] for row in np.array_split(box, 3)]
    signs = np.where(covered / 12 > 0.65, "#", np.where(covered / 12 < 0.27, ".", "+"))
    assert tuple("".join(row) for row in signs) == LOOKS[shape]


@pytest.mark.parametrize("size", SIZES)
def test_any_two_shapes_differ_clearly(size):
    for seed in range(5):
        drawn = {shape: mask(single(shape, size=size, seed=seed)) for shape in SHAPES}
        for one, other in combinations(SHAPES, 2):
            overlap = (drawn[one] & drawn[other]).sum() / (drawn[one] | drawn[other]).sum()
            assert overlap < 0.87, (one, other)


@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_has_the_colour_of_its_paint_and_stands_out(colour):
    for seed, shape in enumerate(SHAPES * 2):
        scene = single(shape, colour, SIZES[seed % 2], seed=seed)
        picture, drawn = pixels(draw(scene)), mask(scene)
        if shape in ("ring", "moon"):  # nothing is at their centre
            seen = np.median(picture[drawn], axis=0)
        else:
            row, column = (int(places.mean().round()) for places in np.nonzero(drawn))
            seen = picture[row, column]
        distance = {name: np.abs(seen - paint).max() for name, paint in PAINT.items()}
        assert min(distance, key=distance.get) == colour
        assert distance[colour] < 40
        ground = picture[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.abs(ground - seen).max(-1).min() > 15  # white in shade on the lightest ground; mostly far more


def test_a_pair_lies_as_its_axis_says_apart_and_inside():
    for scene in scenes(100, pairs=1.0):
        across = 0 if scene.axis == "horizontal" else 1
        drawn = [mask(scene, which) for which in (0, 1)]
        for kind, share in zip(scene.kinds, (one.mean() for one in drawn)):  # nothing of one is hidden by the other
            least, most = RADIUS[kind.size]
            assert 0.92 * AREA[kind.shape] * least**2 < share < 1.08 * AREA[kind.shape] * most**2
        first, second = (np.flatnonzero(one.any(across)) for one in drawn)
        assert first[-1] + 2 < second[0], "two pixels between them"


def test_objects_stay_inside_the_picture():
    for scene in scenes(120):
        for which, kind in enumerate(scene.kinds):
            drawn = mask(scene, which)
            border = sum(side.sum() for side in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]))
            # The tip of a large triangle may touch the border.
            assert border == 0 or (kind.shape == "triangle" and kind.size == "large" and border <= 2)


def components(drawn):
    """How many pieces a mask has, by flooding one after the other."""
    drawn, pieces = drawn.copy(), 0
    while drawn.any():
        pieces += 1
        flood = [tuple(np.argwhere(drawn)[0])]
        while flood:
            row, column = flood.pop()
            if 0 <= row < len(drawn) and 0 <= column < len(drawn) and drawn[row, column]:
                drawn[row, column] = False
                flood += [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return pieces


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_objects_are_there_as_are_counted(shape):
    for count in COUNTS:
        for size in SIZES:
            scene = single(shape, size=size, count=count, seed=count)
            assert components(mask(scene)) == count


def test_masks_are_where_each_object_is_drawn():
    for scene in scenes(40):
        drawn = masks(scene)
        assert len(drawn) == scene.count and drawn.min() >= 0 and drawn.max() <= 1
        if scene.axis is not None:
            pairs = [(one, mask(scene, which)) for which, one in enumerate(drawn)]
        else:
            assert all(components(one > 0.5) == 1 for one in drawn)
            pairs = [(drawn.max(0), mask(scene))]
        for one, there in pairs:
            assert there[one > 0.8].all() and not there[one < 0.2].any()
            assert ((one > 0.2) & (one < 0.8)).mean() < 0.1, "few pixels are on an edge"
