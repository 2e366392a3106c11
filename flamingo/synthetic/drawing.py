"""Draws a scene at any size: signed distances give the outline, its soft edge, the shading and the shadow."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage

from flamingo.synthetic.scenes import Kind, Scene

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


@dataclass(frozen=True)
class _Object:
    """An object at its place, in shares of the picture's side, the picture's centre being (0, 0)."""

    kind: Kind
    x: float
    y: float
    radius: float
    angle: float
    paint: np.ndarray

    def outline(
        self, x: np.ndarray, y: np.ndarray, right: float = 0.0, down: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:func:`_distance` on the grid of two axes, from the outline moved by ``right`` and ``down``."""
        x, y = x[None, :] - self.x - right, y[:, None] - self.y - down
        return _distance(self.kind.shape, self.radius, self.angle, x, y)


def draw(scene: Scene, size: int = PICTURE_SIZE) -> PILImage.Image:
    """The picture of a scene, ``size`` pixels wide and high, with the same content at every size."""
    rng = random.Random(scene.seed)
    axis = _axis(size)
    picture = _ground(rng, axis)
    for thing in _objects(scene, rng):
        # Only where the object and its shadow can reach.
        reach = 1.15 * thing.radius + 0.07
        rows, columns = (slice(*np.searchsorted(axis, (c - reach, c + reach))) for c in (thing.y, thing.x))
        there, x, y = picture[rows, columns], axis[columns], axis[rows]
        there *= 1 - 0.38 * _smooth(0.03 - thing.outline(x, y, right=0.015, down=0.03)[0], 0.06)[..., None]
        distance, u, v = thing.outline(x, y)
        # Lighter towards the upper left, a darker rim.
        light = 1 + 0.10 * np.clip(-(u + v) / 1.4, -1, 1) - 0.20 * _smooth(distance + 0.022, 0.03)
        there += _cover(distance, size)[..., None] * (np.minimum(thing.paint * light[..., None], 255) - there)
    return PILImage.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def masks(scene: Scene, size: int = PICTURE_SIZE) -> np.ndarray:
    """[objects h w]: how much of each pixel each object covers, 0 to 1, in the order of ``scene.kinds``."""
    rng, axis = random.Random(scene.seed), _axis(size)
    _ground(rng, axis)  # drawn first, from the same random numbers
    return np.stack([_cover(thing.outline(axis, axis)[0], size) for thing in _objects(scene, rng)])


def _axis(size: int) -> np.ndarray:
    return (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5


def _ground(rng: random.Random, axis: np.ndarray) -> np.ndarray:
    top, bottom = (np.array(colour, dtype=np.float32) for colour in rng.choice(GROUNDS))
    tilt = np.clip(0.5 + axis[:, None] + rng.uniform(-0.4, 0.4) * axis, 0, 1)[..., None]
    return (top + tilt * (bottom - top)) * rng.uniform(0.92, 1.06)


def _objects(scene: Scene, rng: random.Random) -> list[_Object]:
    kinds = scene.kinds if scene.axis else scene.kinds * scene.count
    objects = []
    for kind, (x, y) in zip(kinds, _places(scene, rng), strict=True):
        radius = rng.uniform(*RADIUS[kind.size])
        angle = rng.uniform(-0.25, 0.25)
        paint = np.array(PAINT[kind.colour], dtype=np.float32) * rng.uniform(0.93, 1.05)
        paint = np.clip(paint + np.array([rng.uniform(-8, 8) for _ in range(3)], dtype=np.float32), 0, 255)
        objects.append(_Object(kind, x, y, radius, angle, paint))
    return objects


def _cover(distance: np.ndarray, size: int) -> np.ndarray:
    """Share of each pixel inside an outline, by the distance of its middle."""
    return np.clip(0.5 - distance * size, 0, 1)


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
