"""Render one synthetic face: no photographs, every pixel comes from geometry, light and random numbers.

The face is drawn frontally, shaded from a height field, then turned, rolled and placed in a picture by a 3D pose.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from transfer.datasets.synthetic.anatomy import EXPRESSIONS, build_geometry, points68, sample_actions, sample_identity
from transfer.datasets.synthetic.painting import CANVAS, ORIGIN, UNIT, paint, rgb

__all__ = ["EXPRESSIONS", "Face", "Style", "background", "expose", "render_face"]


@dataclass(frozen=True)
class Style:
    """How a population is photographed: size of the face, pose, occlusion and picture quality.

    ``roll``, ``yaw``, ``pitch`` are standard deviations in degrees, ``blur`` and ``noise`` upper ends.
    """

    scale: tuple[float, float] = (0.27, 0.34)  # range of the distance between the eyes, in sides of the picture
    shift: float = 0.02  # standard deviation of the face's place, in sides of the picture
    roll: float = 7.0
    yaw: float = 11.0
    pitch: float = 7.0
    occlusion: float = 0.15  # probability
    blur: float = 0.7  # radius in percent of the picture's side
    noise: float = 7.0  # grey levels


def _depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of the head's surface towards the viewer, in face units; gentle enough for a pose to be inverted."""
    nose = 0.26 * np.exp(-((x / 0.17) ** 2) - ((y - 0.42) / 0.30) ** 2)
    return 0.62 - 0.55 * np.minimum(x**2, 1.6) - 0.16 * np.minimum((y - 0.3) ** 2, 2.2) + nose


MIDDLE = 0.45  # the head turns about this point below the eyes, in face units


@dataclass(frozen=True)
class Pose:
    """Orthographic view of a head: yaw and pitch in radians, then a similarity as complex numbers, in pixels."""

    yaw: float
    pitch: float
    turn: complex
    place: complex

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Face units (N, 2) -> picture pixels (N, 2)."""
        x, y = points[:, 0], points[:, 1]
        z = _depth(x, y)
        across = x * math.cos(self.yaw) + z * math.sin(self.yaw)
        towards = z * math.cos(self.yaw) - x * math.sin(self.yaw)
        down = (y - MIDDLE) * math.cos(self.pitch) - towards * math.sin(self.pitch)
        seen = (across + 1j * down) * self.turn + self.place
        return np.stack([seen.real, seen.imag], 1)

    def inverse(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture pixels -> face units, by fixed-point iteration."""
        seen = (x + 1j * y - self.place) / self.turn
        u, v = seen.real, seen.imag + MIDDLE
        for _ in range(6):
            z = _depth(u, v)
            towards = z * math.cos(self.yaw) - u * math.sin(self.yaw)
            u = (seen.real - z * math.sin(self.yaw)) / math.cos(self.yaw)
            v = (seen.imag + towards * math.sin(self.pitch)) / math.cos(self.pitch) + MIDDLE
        return u, v


def _sample_pose(rng: np.random.Generator, style: Style, size: int) -> Pose:
    yaw, pitch, roll = np.deg2rad(np.clip(rng.normal(0, [style.yaw, style.pitch, style.roll]), -28, 28)).tolist()
    unit = rng.uniform(*style.scale) * size / 0.8  # the eyes are 0.8 face units apart
    x, y = rng.normal(0, style.shift, 2) * size + size * np.array([0.5, 0.53])
    # The depth carries the face aside when the head turns: half a unit is its mean.
    place = complex(x - 0.5 * unit * math.sin(yaw), y + 0.5 * unit * math.sin(pitch))
    return Pose(yaw, pitch, unit * complex(math.cos(roll), math.sin(roll)), place)


@lru_cache
def _interpolation(n: int, knots: int) -> np.ndarray:
    """Matrix (n, knots) that interpolates values at evenly spaced knots linearly onto n pixel centres."""
    at = (np.arange(n) + 0.5) / n * (knots - 1)
    low = np.minimum(at.astype(int), knots - 2)
    matrix = np.zeros((n, knots), np.float32)
    matrix[np.arange(n), low] = 1 - (at - low)
    matrix[np.arange(n), low + 1] = at - low
    return matrix


def _view(head: Image.Image, pose: Pose, size: int, over: int) -> Image.Image:
    """The head seen in ``pose``, RGBA, (over * size, over * size): by nearest neighbour, to be reduced later."""
    n, knots = size * over, 33
    lattice = np.linspace(0, size, knots)
    matrix = _interpolation(n, knots)
    index = []
    for units, origin, length in zip(pose.inverse(*np.meshgrid(lattice, lattice)), ORIGIN, CANVAS, strict=True):
        pixels = matrix @ ((units - origin) * UNIT).astype(np.float32) @ matrix.T
        # Beyond the canvas its edge goes on: shoulders, or nothing.
        index.append(np.clip(pixels, 0, length - 1, out=pixels).astype(np.int32))
    flat = np.asarray(head).view(np.uint32).ravel()
    return Image.fromarray(flat.take(index[1] * CANVAS[0] + index[0]).view(np.uint8).reshape(n, n, 4))


def background(rng: np.random.Generator, size: int) -> Image.Image:
    """A room or street out of focus, RGB, (size, size): colour clouds and a few large shapes."""
    cells = int(rng.integers(3, 7))
    base = rng.uniform(50, 205) + rng.normal(0, 22, 3)
    clouds = np.clip(base + rng.normal(0, 28, (cells, cells, 1)) + rng.normal(0, 7, (cells, cells, 3)), 0, 255)
    image = Image.fromarray(clouds.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 4))):
        x, y, width, height = rng.uniform([-10, -10, 5, 5], [64, 64, 40, 50])
        draw.rectangle([x, y, x + width, y + height], fill=rgb(rng.uniform(30, 225) + rng.normal(0, 25, 3)))
    return image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.5, 3)))).resize((size, size), Image.Resampling.BILINEAR)


def expose(rng: np.random.Generator, image: Image.Image, style: Style) -> np.ndarray:
    """The camera: blur, gain, contrast, colour cast, vignette and noise; (H, W, 3) uint8."""
    size = image.width
    radius = rng.uniform(0, style.blur) * size / 100
    if radius > 0.2:
        image = image.filter(ImageFilter.BoxBlur(radius))
    axis = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    vignette = 1 - np.float32(rng.uniform(0, 0.22)) * (axis[:, None] + axis)
    contrast, gain = rng.uniform(0.78, 1.15), rng.uniform(0.85, 1.2)
    middle = np.asarray(image.crop((size // 3, size // 3, size - size // 3, size - size // 3)))
    gain *= (125 / max(middle.mean(), 25.0)) ** 0.4  # a camera exposes for the middle of its picture, more or less
    cast = (rng.normal(1, [0.03, 0.015, 0.04]) * gain * contrast).astype(np.float32)
    noise = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(1, style.noise))
    noise += np.float32(115 * (1 - contrast) * gain)
    value = np.asarray(image, np.float32) * cast * vignette[..., None] + noise[..., None]
    return np.clip(value, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Face:
    """A synthetic face: ``image`` (size, size, 3) uint8 RGB, ``points`` (68, 2) x, y in pixels, ``box`` x0, y0, x1, y1.

    The points are in the order of the 68-point annotation: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
    ``gender``, ``race`` and ``age`` are RAF-DB's codes for hair and beard, skin tone, wrinkles and grey hair.
    """

    image: np.ndarray
    points: np.ndarray
    box: tuple[float, float, float, float]
    gender: int
    race: int
    age: int

    @property
    def landmarks(self) -> np.ndarray:
        """Left eye centre, right eye centre, nose tip, left and right mouth corner, (5, 2); left is the smaller x."""
        p = self.points
        return np.stack([p[36:42].mean(0), p[42:48].mean(0), p[30], p[48], p[54]])


def render_face(rng: np.random.Generator, expression: str, intensity: float, size: int, style: Style = Style()) -> Face:
    """One face of a new person who shows ``expression``, a key of EXPRESSIONS, at ``intensity`` in [0, 1]."""
    who = sample_identity(rng)
    actions = sample_actions(rng, expression, intensity)
    geometry = build_geometry(rng, who, actions)
    pose = _sample_pose(rng, style, size)
    light = rng.normal([0, -0.3, 1.25], [0.4, 0.3, 0.2])
    head = paint(rng, who, actions, geometry, light / np.linalg.norm(light), bool(rng.random() < style.occlusion))
    over = 2 if size >= 96 else 3
    picture = background(rng, size).resize((size * over, size * over), Image.Resampling.NEAREST)
    view = _view(head, pose, size, over)
    picture.paste(view, (0, 0), view)
    image = expose(rng, picture.reduce(over), style)

    points = np.clip(pose.forward(points68(geometry)), 0, size - 1)
    outline = np.clip(pose.forward(geometry.outline[geometry.outline[:, 1] > -0.8]), 0, size - 1)
    return Face(image, points, (*outline.min(0).tolist(), *outline.max(0).tolist()), who.gender, who.race, who.age)
