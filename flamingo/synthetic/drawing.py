"""Draws scenes at any size from signed distances, which give the outline, its soft edge, the shading and the shadow."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage

from flamingo.synthetic.scenes import Kind, Scene

#: The side in pixels of the images that the shipped vision encoder was trained on.
PICTURE_SIZE = 64

#: sRGB of each colour. Each object varies it a little.
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
#: (top, bottom) of vertical gradients. They are muted, so that every paint contrasts with every ground.
GROUNDS = (
    ((150, 176, 190), (188, 200, 196)),
    ((178, 168, 190), (204, 190, 186)),
    ((160, 180, 158), (196, 200, 172)),
    ((196, 176, 156), (174, 160, 156)),
    ((146, 152, 172), (180, 172, 184)),
    ((190, 186, 176), (158, 172, 176)),
)
#: The range of the radius, relative to the image's side.
RADIUS = {"small": (0.112, 0.126), "large": (0.19, 0.212)}

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Object:
    """An object, in coordinates relative to the image's side. (0, 0) is the image's centre."""

    kind: Kind
    x: float
    y: float
    radius: float
    angle: float
    paint: np.ndarray

    def local(
        self, x: np.ndarray, y: np.ndarray, right: float = 0.0, down: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the grid of two axes in the coordinates of the object's shape, whose radius is 1.

        ``right`` and ``down`` move the object.
        """
        x = x[None, :] - self.x - right
        y = y[:, None] - self.y - down
        cos = math.cos(self.angle) / self.radius
        sin = math.sin(self.angle) / self.radius
        return cos * x + sin * y, cos * y - sin * x

    def distance(self, x: np.ndarray, y: np.ndarray, right: float = 0.0, down: float = 0.0) -> np.ndarray:
        """Returns the distance to the outline on the grid of two axes, negative inside."""
        u, v = self.local(x, y, right, down)
        return DISTANCES[self.kind.shape](u, v) * self.radius


def draw(scene: Scene, size: int = PICTURE_SIZE) -> PILImage.Image:
    """Returns the image of a scene, ``size`` pixels wide and high. Its content is the same at every size."""
    rng = random.Random(scene.seed)
    axis = _axis(size)
    image = _ground(rng, axis)
    for thing in _objects(scene, rng):
        _draw_object(thing, image, axis)
    return PILImage.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def _draw_object(thing: _Object, image: np.ndarray, axis: np.ndarray) -> None:
    # The part of the image that the object and its shadow can reach.
    reach = 1.15 * thing.radius + 0.07
    columns = slice(*np.searchsorted(axis, (thing.x - reach, thing.x + reach)))
    rows = slice(*np.searchsorted(axis, (thing.y - reach, thing.y + reach)))
    part, x, y = image[rows, columns], axis[columns], axis[rows]
    shadow = thing.distance(x, y, right=0.015, down=0.03)
    part *= 1 - 0.38 * _smooth(0.03 - shadow, 0.06)[..., None]
    u, v = thing.local(x, y)
    distance = thing.distance(x, y)
    # Lighter towards the upper left, with a darker rim.
    light = 1 + 0.10 * np.clip(-(u + v) / 1.4, -1, 1) - 0.20 * _smooth(distance + 0.022, 0.03)
    colour = np.minimum(thing.paint * light[..., None], 255)
    part += _coverage(distance, len(axis))[..., None] * (colour - part)


def masks(scene: Scene, size: int = PICTURE_SIZE) -> np.ndarray:
    """Returns the share of each pixel that each object covers [objects h w], in the order of ``scene.kinds``."""
    rng = random.Random(scene.seed)
    axis = _axis(size)
    _ground(rng, axis)  # consumes the same random numbers as in draw()
    return np.stack([_coverage(thing.distance(axis, axis), size) for thing in _objects(scene, rng)])


def _axis(size: int) -> np.ndarray:
    return (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5


def _ground(rng: random.Random, axis: np.ndarray) -> np.ndarray:
    top, bottom = np.array(rng.choice(GROUNDS), dtype=np.float32)
    tilt = rng.uniform(-0.4, 0.4)
    height = np.clip(0.5 + axis[:, None] + tilt * axis, 0, 1)[..., None]
    return (top + height * (bottom - top)) * rng.uniform(0.92, 1.06)


def _objects(scene: Scene, rng: random.Random) -> list[_Object]:
    kinds = scene.kinds if scene.axis else scene.kinds * scene.count
    objects = []
    for kind, (x, y) in zip(kinds, _centres(scene, rng), strict=True):
        radius = rng.uniform(*RADIUS[kind.size])
        angle = rng.uniform(-0.25, 0.25)
        brightness = rng.uniform(0.93, 1.05)
        shift = np.array([rng.uniform(-8, 8) for _ in range(3)], dtype=np.float32)
        paint = np.array(PAINT[kind.colour], dtype=np.float32) * brightness + shift
        objects.append(_Object(kind, x, y, radius, angle, np.clip(paint, 0, 255)))
    return objects


def _coverage(distance: np.ndarray, size: int) -> np.ndarray:
    """Returns the share of each pixel inside an outline, by the distance of the pixel's centre."""
    return np.clip(0.5 - distance * size, 0, 1)


def _centres(scene: Scene, rng: random.Random) -> list[tuple[float, float]]:
    def near(x: float, y: float, deviation: float) -> tuple[float, float]:
        return x + rng.uniform(-deviation, deviation), y + rng.uniform(-deviation, deviation)

    if scene.axis is not None:
        along_and_across = [(side + rng.uniform(-0.025, 0.025), rng.uniform(-0.1, 0.1)) for side in (-0.245, 0.245)]
        if scene.axis == "horizontal":
            return along_and_across
        return [(across, along) for along, across in along_and_across]
    if scene.count == 1:
        return [near(0.0, 0.0, 0.22)]
    quadrants = [(-0.245, -0.245), (-0.245, 0.245), (0.245, -0.245), (0.245, 0.245)]
    return [near(x, y, 0.025) for x, y in rng.sample(quadrants, scene.count)]


def _smooth(x: np.ndarray, width: float) -> np.ndarray:
    """Returns 0 below 0, 1 above ``width``, and a smooth step between them."""
    t = np.clip(x / width, 0, 1)
    return t * t * (3 - 2 * t)


# Distances to the outlines of shapes of radius 1, negative inside. y points down. Some are not exact far from the
# outline, where they are not used.


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
    # Folded into half a point: all points equal the one at the top.
    angle = np.abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    # The edge runs from the tip (1.08, 0) to the notch at a tenth of a turn.
    notch = 0.46 * np.array([math.cos(math.pi / 5), math.sin(math.pi / 5)])
    edge = notch - np.array([1.08, 0.0])
    return ((along - 1.08) * -edge[1] + across * edge[0]) * -1 / np.hypot(*edge)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A square that stands on a corner, with a circle on each of its upper sides.
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
