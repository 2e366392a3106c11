"""Draws scenes at any size from signed distances, which give the outline, its soft edge, the shading and the shadow."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image as PILImage

from flamingo.synthetic.scenes import Axis, Kind, Scene

#: The side in pixels of the images that the shipped vision encoder was trained on.
PICTURE_SIZE = 64

#: sRGB of each colour. Each object varies it slightly.
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
#: (top, bottom) of vertical gradients in sRGB. They are muted, so that every paint contrasts with every ground.
GROUNDS = (
    ((150, 176, 190), (188, 200, 196)),
    ((178, 168, 190), (204, 190, 186)),
    ((160, 180, 158), (196, 200, 172)),
    ((196, 176, 156), (174, 160, 156)),
    ((146, 152, 172), (180, 172, 184)),
    ((190, 186, 176), (158, 172, 176)),
)
#: The range of an object's radius, relative to the image's side.
RADIUS = {
    "small": (0.112, 0.126),
    "large": (0.19, 0.212),
}
#: The centres (x, y) of several equal objects, each in its own quadrant, relative to the image's side.
QUADRANTS = (
    (-0.245, -0.245),
    (-0.245, 0.245),
    (0.245, -0.245),
    (0.245, 0.245),
)

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
        self,
        x: np.ndarray,
        y: np.ndarray,
        right: float = 0.0,
        down: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the grid of two axes in the coordinates of the object's shape, whose radius is 1.

        ``right`` and ``down`` shift the object.
        """
        x = x[None, :] - self.x - right
        y = y[:, None] - self.y - down
        cos = math.cos(self.angle) / self.radius
        sin = math.sin(self.angle) / self.radius
        u = cos * x + sin * y
        v = cos * y - sin * x
        return u, v

    def distance(
        self,
        x: np.ndarray,
        y: np.ndarray,
        right: float = 0.0,
        down: float = 0.0,
    ) -> np.ndarray:
        """Returns the distance to the outline on the grid of two axes, negative inside."""
        u, v = self.local(x, y, right, down)
        distance = DISTANCES[self.kind.shape]
        return distance(u, v) * self.radius


def draw(scene: Scene, size: int = PICTURE_SIZE) -> PILImage.Image:
    """Returns the image of a scene, ``size`` pixels wide and high. Its content is the same at every size."""
    rng = random.Random(scene.seed)
    axis = _axis(size)
    image = _ground(rng, axis)
    for thing in _objects(scene, rng):
        _draw_object(thing, image, axis)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return PILImage.fromarray(pixels)


def _draw_object(thing: _Object, image: np.ndarray, axis: np.ndarray) -> None:
    # The part of the image that the object and its shadow can reach.
    reach = 1.15 * thing.radius + 0.07
    columns = _section(axis, thing.x, reach)
    rows = _section(axis, thing.y, reach)
    part = image[rows, columns]
    x = axis[columns]
    y = axis[rows]
    shadow_distance = thing.distance(x, y, right=0.015, down=0.03)
    shadow = _smooth(0.03 - shadow_distance, 0.06)
    part *= 1 - 0.38 * shadow[..., None]
    u, v = thing.local(x, y)
    distance = thing.distance(x, y)
    # Lighter towards the upper left, with a darker rim.
    slope = np.clip(-(u + v) / 1.4, -1, 1)
    rim = _smooth(distance + 0.022, 0.03)
    light = 1 + 0.10 * slope - 0.20 * rim
    colour = np.minimum(thing.paint * light[..., None], 255)
    coverage = _coverage(distance, len(axis))
    part += coverage[..., None] * (colour - part)


def _section(axis: np.ndarray, centre: float, reach: float) -> slice:
    start, stop = np.searchsorted(axis, (centre - reach, centre + reach))
    return slice(start, stop)


def masks(scene: Scene, size: int = PICTURE_SIZE) -> Float[np.ndarray, "objects h w"]:
    """Returns the share of each pixel that each object covers, in the order of ``scene.kinds``."""
    rng = random.Random(scene.seed)
    axis = _axis(size)
    _ground(rng, axis)  # consumes the same random numbers as in draw()
    coverages = []
    for thing in _objects(scene, rng):
        distance = thing.distance(axis, axis)
        coverages.append(_coverage(distance, size))
    return np.stack(coverages)


def _axis(size: int) -> np.ndarray:
    pixels = np.arange(size, dtype=np.float32)
    return (pixels + 0.5) / size - 0.5


def _ground(rng: random.Random, axis: np.ndarray) -> np.ndarray:
    top, bottom = np.array(rng.choice(GROUNDS), dtype=np.float32)
    tilt = rng.uniform(-0.4, 0.4)
    height = np.clip(0.5 + axis[:, None] + tilt * axis, 0, 1)
    gradient = top + height[..., None] * (bottom - top)
    brightness = rng.uniform(0.92, 1.06)
    return gradient * brightness


def _objects(scene: Scene, rng: random.Random) -> list[_Object]:
    kinds = scene.kinds if scene.axis else scene.kinds * scene.count
    objects = []
    for kind, (x, y) in zip(kinds, _centres(scene, rng), strict=True):
        least_radius, greatest_radius = RADIUS[kind.size]
        radius = rng.uniform(least_radius, greatest_radius)
        angle = rng.uniform(-0.25, 0.25)
        brightness = rng.uniform(0.93, 1.05)
        shift = [rng.uniform(-8, 8) for _ in range(3)]
        paint = np.array(PAINT[kind.colour], dtype=np.float32)
        paint = paint * brightness + np.array(shift, dtype=np.float32)
        paint = np.clip(paint, 0, 255)
        objects.append(_Object(kind, x, y, radius, angle, paint))
    return objects


def _coverage(distance: np.ndarray, size: int) -> np.ndarray:
    """Returns the share of each pixel inside an outline, given the distance of the pixel's centre."""
    return np.clip(0.5 - distance * size, 0, 1)


def _centres(scene: Scene, rng: random.Random) -> list[tuple[float, float]]:
    if scene.axis is not None:
        return _pair_of_centres(scene.axis, rng)
    if scene.count == 1:
        return [_near(0.0, 0.0, 0.22, rng)]
    return [_near(x, y, 0.025, rng) for x, y in rng.sample(QUADRANTS, scene.count)]


def _pair_of_centres(axis: Axis, rng: random.Random) -> list[tuple[float, float]]:
    centres = []
    for side in (-0.245, 0.245):
        along = side + rng.uniform(-0.025, 0.025)
        across = rng.uniform(-0.1, 0.1)
        if axis == "horizontal":
            centres.append((along, across))
        else:
            centres.append((across, along))
    return centres


def _near(x: float, y: float, deviation: float, rng: random.Random) -> tuple[float, float]:
    right = rng.uniform(-deviation, deviation)
    down = rng.uniform(-deviation, deviation)
    return x + right, y + down


def _smooth(x: np.ndarray, width: float) -> np.ndarray:
    """Returns 0 below 0, 1 above ``width``, and a smooth step between them."""
    t = np.clip(x / width, 0, 1)
    return t * t * (3 - 2 * t)


# Distances to the outlines of shapes of radius 1, negative inside. y points down. Some are only exact near the outline;
# other distances are not used.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.74) - 0.24


def _moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    disc = np.hypot(x, y) - 1.0
    bite = np.hypot(x - 0.52, y)
    return np.maximum(disc, 0.82 - bite)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    long = np.maximum(np.abs(x), np.abs(y))
    return long - 0.82


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    long = np.maximum(np.abs(x), np.abs(y))
    short = np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - 0.98, short - 0.32)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = y - 0.72
    sides = 0.894 * np.abs(x) - 0.447 * y - 0.52
    return np.maximum(base, sides)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Folded into half a point: all points equal the one at the top.
    half = math.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs((angle + half) % (2 * math.pi / 5) - half)
    radius = np.hypot(x, y)
    along = radius * np.cos(angle)
    across = radius * np.sin(angle)
    # The edge runs from the tip (1.08, 0) to the notch at a tenth of a turn.
    notch = 0.46 * np.array([math.cos(half), math.sin(half)])
    edge_along, edge_across = notch - np.array([1.08, 0.0])
    product = (along - 1.08) * -edge_across + across * edge_along
    return product * -1 / np.hypot(edge_along, edge_across)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A square that stands on a corner, with a circle on each of its upper sides.
    half = 0.83
    x = np.abs(x)
    y = 0.1 - y
    square = (x + np.abs(y) - half) / math.sqrt(2)
    circle = np.hypot(x - half / 2, y - half / 2) - half / math.sqrt(2)
    return np.minimum(square, circle)


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
