"""Draws a scene at any size: signed distances give the outline, its soft edge, the shading and the shadow."""

import math
import random
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image as PILImage

from flamingo.data.world.scenes import Scene

#: Pixels of the pictures that the shipped vision encoder was trained on.
PICTURE_SIZE = 64

#: sRGB of each colour; drawn a little lighter, darker or off, as paint is.
PAINT = {
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (248, 216, 60),
    "green": (52, 152, 74),
    "blue": (45, 98, 208),
    "purple": (132, 62, 178),
    "white": (246, 246, 242),
    "black": (34, 34, 40),
}
#: Muted, so that every paint stands out on every ground: (top, bottom) of a vertical gradient.
GROUNDS = (
    ((150, 176, 190), (188, 200, 196)),
    ((178, 168, 190), (204, 190, 186)),
    ((160, 180, 158), (196, 200, 172)),
    ((196, 176, 156), (174, 160, 156)),
    ((146, 152, 172), (180, 172, 184)),
    ((190, 186, 176), (158, 172, 176)),
)
#: Radius as a share of the picture's side.
RADIUS = {"small": (0.112, 0.126), "large": (0.19, 0.212)}

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def draw(scene: Scene, size: int = PICTURE_SIZE) -> PILImage.Image:
    """The picture of a scene, ``size`` pixels wide and high, with the same content at every size."""
    rng = random.Random(scene.seed)
    top, bottom = (np.array(colour, dtype=np.float32) for colour in rng.choice(GROUNDS))
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    tilt = np.clip(0.5 + axis[:, None] + rng.uniform(-0.4, 0.4) * axis, 0, 1)[..., None]
    picture = top + tilt * (bottom - top)
    picture *= rng.uniform(0.92, 1.06)
    kinds = scene.kinds if scene.axis else scene.kinds * scene.count
    for kind, (cx, cy) in zip(kinds, _places(scene, rng), strict=True):
        radius = rng.uniform(*RADIUS[kind.size])
        angle = rng.uniform(-0.25, 0.25)
        paint = np.array(PAINT[kind.colour], dtype=np.float32) * rng.uniform(0.93, 1.05)
        paint = np.clip(paint + np.array([rng.uniform(-8, 8) for _ in range(3)], dtype=np.float32), 0, 255)
        # Only where the object and its shadow can reach.
        reach = 1.15 * radius + 0.07
        rows, columns = (slice(*np.searchsorted(axis, (c - reach, c + reach))) for c in (cy, cx))
        there = picture[rows, columns]
        x, y = (axis[columns] - cx)[None, :], (axis[rows] - cy)[:, None]
        outline = partial(_distance, kind.shape, radius, angle)
        there *= 1 - 0.38 * _smooth(0.03 - outline(x - 0.015, y - 0.03)[0], 0.06)[..., None]
        distance, u, v = outline(x, y)
        # Lighter towards the upper left, a darker rim.
        light = 1 + 0.10 * np.clip(-(u + v) / 1.4, -1, 1) - 0.20 * _smooth(distance + 0.022, 0.03)
        cover = np.clip(0.5 - distance * size, 0, 1)[..., None]
        there += cover * (np.minimum(paint * light[..., None], 255) - there)
    return PILImage.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _distance(
    shape: str, radius: float, angle: float, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance to the outline in shares of the picture's side, negative inside; and where that is in the shape."""
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    u, v = cos * x + sin * y, cos * y - sin * x
    return DISTANCES[shape](u, v) * radius, u, v


def _places(scene: Scene, rng: random.Random) -> list[tuple[float, float]]:
    """Centres of the objects, the picture's own being (0, 0)."""

    def near(x: float, y: float, slack: float) -> tuple[float, float]:
        return x + rng.uniform(-slack, slack), y + rng.uniform(-slack, slack)

    if scene.axis is not None:
        places = [(side + rng.uniform(-0.025, 0.025), rng.uniform(-0.1, 0.1)) for side in (-0.245, 0.245)]
        return places if scene.axis == "horizontal" else [(y, x) for x, y in places]
    if scene.count == 1:
        return [near(0.0, 0.0, 0.22)]
    quarters = [(x, y) for x in (-0.245, 0.245) for y in (-0.245, 0.245)]
    return [near(x, y, 0.025) for x, y in rng.sample(quarters, scene.count)]


def _smooth(x: np.ndarray, width: float) -> np.ndarray:
    """0 below 0, 1 above ``width``, smooth between."""
    t = np.clip(x / width, 0, 1)
    return t * t * (3 - 2 * t)


# Distances to the outlines of shapes of radius 1, negative inside; y points down. Away from an outline
# some are not exact, which nothing here needs.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.74) - 0.24


def _moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 1.0, 0.82 - np.hypot(x - 0.52, y))


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.82


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - 0.98, short - 0.32)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y - 0.72, 0.894 * np.abs(x) - 0.447 * y - 0.52)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Folded into half a point: every point is the same as the one that looks up.
    angle = np.abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    # The edge runs from the tip (1.08, 0) to the notch at a tenth of a turn.
    notch = 0.46 * np.array([math.cos(math.pi / 5), math.sin(math.pi / 5)])
    edge = notch - np.array([1.08, 0.0])
    return ((along - 1.08) * -edge[1] + across * edge[0]) * -1 / np.hypot(*edge)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A square on its corner, and a circle on each of its upper sides.
    half = 0.83
    x, y = np.abs(x), 0.1 - y
    return np.minimum((x + np.abs(y) - half) / math.sqrt(2), np.hypot(x - half / 2, y - half / 2) - half / math.sqrt(2))


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}
