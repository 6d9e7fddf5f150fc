"""Render one synthetic face: no photographs, every pixel comes from geometry, light and random numbers.

The lines of a frontal face are turned in space, and then painted in flat colours, with soft folds and shadows.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from transfer.datasets.synthetic import anatomy
from transfer.datasets.synthetic.anatomy import EXPRESSIONS, SIDES, Geometry, Identity, Line, smooth

__all__ = ["EXPRESSIONS", "Face", "Style", "background", "expose", "render_face"]

Colour = tuple[int, ...]


@dataclass(frozen=True)
class Style:
    """How a population is photographed: side of its pictures in pixels, size of the face, pose and picture quality.

    ``roll``, ``yaw``, ``pitch`` are standard deviations in degrees, ``blur`` and ``noise`` upper ends.
    """

    size: tuple[int, int] = (100, 151)  # from, to below
    scale: tuple[float, float] = (0.27, 0.34)  # range of the distance between the eyes, in sides of the picture
    shift: float = 0.02  # standard deviation of the face's place, in sides of the picture
    roll: float = 7.0
    yaw: float = 11.0
    pitch: float = 7.0
    blur: float = 0.7  # radius in percent of the picture's side
    noise: float = 7.0  # grey levels


@dataclass(frozen=True)
class Pose:
    """Orthographic view of a head: yaw and pitch in radians, then a similarity as complex numbers, in pixels."""

    yaw: float
    pitch: float
    turn: complex
    place: complex

    def forward(self, points: Line) -> np.ndarray:
        """Face units (N, 2) -> picture pixels (N, 2); the head turns about the point (0, 0.45)."""
        x, y = np.asarray(points, float).T
        nose = 0.26 * np.exp(-((x / 0.17) ** 2) - ((y - 0.42) / 0.30) ** 2)
        depth = 0.12 - 0.55 * np.minimum(x**2, 1.6) - 0.16 * np.minimum((y - 0.3) ** 2, 2.2) + nose
        across = x * math.cos(self.yaw) + depth * math.sin(self.yaw)
        towards = depth * math.cos(self.yaw) - x * math.sin(self.yaw)
        down = (y - 0.45) * math.cos(self.pitch) - towards * math.sin(self.pitch)
        seen = (across + 1j * down) * self.turn + self.place
        return np.stack([seen.real, seen.imag], 1)


def _sample_pose(rng: np.random.Generator, style: Style, size: int) -> Pose:
    yaw, pitch, roll = np.deg2rad(np.clip(rng.normal(0, [style.yaw, style.pitch, style.roll]), -28, 28)).tolist()
    unit = rng.uniform(*style.scale) * size / 0.8  # the eyes are 0.8 face units apart
    x, y = rng.normal(0, style.shift, 2) * size + size * np.array([0.5, 0.53])
    return Pose(yaw, pitch, unit * complex(math.cos(roll), math.sin(roll)), complex(x, y))


def _rgb(colour: np.ndarray, gain: float = 1.0) -> Colour:
    return tuple(min(max(int(value * gain), 0), 255) for value in colour)


class _Pen:
    """Draws in face units on a picture of which ``pose`` describes the view, ``over`` times as large."""

    def __init__(self, image: Image.Image, pose: Pose, over: int) -> None:
        self.image, self.draw, self.pose, self.over = image, ImageDraw.Draw(image), pose, over
        self.unit = abs(pose.turn) * over  # pixels

    def like(self, mode: str, colour: int | Colour) -> "_Pen":
        return _Pen(Image.new(mode, self.image.size, colour), self.pose, self.over)

    def _pixels(self, points: Line) -> list[tuple[float, float]]:
        return list(map(tuple, self.pose.forward(points) * self.over))

    def area(self, points: Line, fill: int | Colour) -> None:
        self.draw.polygon(self._pixels(points), fill)

    def band(self, one: np.ndarray, other: np.ndarray, fill: int | Colour) -> None:
        self.area(np.vstack([one, other[::-1]]), fill)

    def line(self, points: Line, fill: int | Colour, width: float) -> None:
        self.draw.line(self._pixels(points), fill, max(1, round(width * self.unit)), "curve")

    def disc(self, x: float, y: float, rx: float, ry: float, fill: int | Colour) -> None:
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        self.area(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1), fill)


def _paint(pen: _Pen, cloth: Colour, who: Identity, a: dict[str, float], g: Geometry) -> None:
    """Paint head and shoulders of ``who`` doing the actions ``a``."""
    top, w, ends = who.forehead - 0.45, who.width, 1.6 if who.gender else 0.1
    half = np.array([(w + 0.12, ends), (w + 0.16, -0.5), (0.6, top - 0.1)])
    pen.area(smooth(np.vstack([half * [-1, 1], [(0, top - 0.2)], half[::-1]])), _rgb(who.hair, 0.85))
    pen.area([(-0.56, 0.9), (0.56, 0.9), (0.58, 1.8), (0, 2.2), (-0.58, 1.8)], _rgb(who.skin, 0.75))
    pen.area([(-2.1, 2.2), (-0.58, 1.7), (0, 2.05), (0.58, 1.7), (2.1, 2.2), (2.1, 4), (-2.1, 4)], cloth)
    pen.area(g.outline, _rgb(who.skin))

    shadow = pen.like("L", 0)
    _shade(shadow, who, a, g)
    soft = shadow.image.filter(ImageFilter.BoxBlur(0.03 * pen.unit))
    pen.image.paste(_rgb(who.skin * [0.60, 0.50, 0.47]), mask=soft)
    x, y = g.nose
    for side in SIDES:
        pen.disc(x + side * 0.44 * g.nose_w, y + 0.098, 0.30 * g.nose_w, 0.026, _rgb(who.skin, 0.30))
        wing = [(x + side * u * g.nose_w, y + v) for u, v in ((0.80, 0.10), (1.00, 0.05), (0.92, -0.03))]
        pen.line(wing, _rgb(who.skin, 0.62), 0.03)
    _eyes(pen, who, g)
    for brow in g.brows:
        thick = who.brow_thick * np.sin(np.linspace(0.6, 3, len(brow)))[:, None] * [0, 0.5]
        pen.band(brow - thick, brow + thick, _rgb(np.minimum(0.78 * who.hair + 0.22 * who.skin, 0.72 * who.skin)))
    _mouth(pen, who, a, g)
    low, high = who.forehead + 0.3, who.forehead - 0.05
    edge = smooth([(-w, ends - 0.15), (-w + 0.12, low), (0, high), (w - 0.12, low), (w, ends - 0.15)])
    pen.area(
        np.vstack([edge, smooth([(w + 0.1, -0.35), (0.62, top), (-0.62, top), (-w - 0.1, -0.35)])]), _rgb(who.hair)
    )


def _shade(pen: _Pen, who: Identity, a: dict[str, float], g: Geometry) -> None:
    """Shadows, folds and wrinkles, to be blurred."""
    nose_y, old = g.nose[1], 0.22 * who.age

    def line(strength: float, width: float, *points: tuple[float, float]) -> None:
        pen.line(list(points), int(255 * min(max(strength, 0), 1)), width)

    for i, side in enumerate(SIDES):
        x, y = g.lips["inner_up"][-i]  # -0 is the left corner, -1 the right one
        brow_y, eye = g.brows[i][0, 1], g.lids[i]
        pen.disc(side * who.eye_x, -0.08, 0.24, 0.13, 70)
        line(0.35, 0.10, (side * 0.13, brow_y + 0.1), (side * 0.10, 0.2), (side * 0.16, nose_y))
        fold = 0.10 + 0.30 * old + 0.75 * a["corner_pull"] + 0.9 * a["nose_wrinkle"] + 0.5 * a["lip_raise"]
        wing = (side * (g.nose_w + 0.03), nose_y - 0.02)
        line(0.75 * fold, 0.06, wing, (side * (g.nose_w + 0.14), nose_y + 0.14), (x + side * 0.10, y - 0.06))
        line(0.8 * a["corner_depress"] + 0.3 * old, 0.06, (x, y), (x + side * 0.06, y + 0.12))
        line(0.55, 0.04, *(eye[0][2:15:3] - [0, 0.055 - 0.03 * a["lid_raise"]]))
        line(0.1 + 0.35 * old + 0.5 * a["cheek_raise"], 0.04, *(eye[1][2:15:3] + [0, 0.06]))
        line(1.05 * a["brow_lower"] - 0.1, 0.04, (side * 0.055, brow_y - 0.06), (side * 0.065, brow_y + 0.11))
        line(0.95 * a["nose_wrinkle"] - 0.05, 0.04, (side * 0.02, 0.01), (side * 0.12, 0.08))
    for y in who.brow_y - 0.05 * a["inner_raise"] - np.array([0.2, 0.32]):
        line(0.5 * a["inner_raise"] + 0.35 * a["outer_raise"] + 0.35 * old - 0.25, 0.04, (-0.4, y), (0.4, y))
    pen.disc(0, nose_y + 0.13, 0.17, 0.05, 90)
    pen.disc(0, g.lips["outer_low"][8, 1] + 0.05, 0.2, 0.04, 80)


def _eyes(pen: _Pen, who: Identity, g: Geometry) -> None:
    opening, balls = pen.like("L", 0), pen.like("RGB", (220, 214, 210))
    for lids, (x, y) in zip(g.lids, g.irises, strict=True):
        opening.band(*lids, 255)
        balls.disc(x, y, 0.085, 0.085, (74, 48, 30))
        balls.disc(x, y, 0.04, 0.04, (12, 10, 10))
    pen.image.paste(balls.image, mask=opening.image)
    for upper, lower in g.lids:
        pen.line(upper, _rgb(who.skin, 0.2), 0.045)
        pen.line(lower, _rgb(who.skin, 0.6), 0.02)


def _mouth(pen: _Pen, who: Identity, a: dict[str, float], g: Geometry) -> None:
    lips, up, low = _rgb(who.skin * [0.86, 0.62, 0.62]), g.lips["inner_up"], g.lips["inner_low"]
    pen.band(g.lips["outer_up"], g.lips["outer_low"], lips)
    pen.band(up, low, (58, 18, 20))
    bared = a["lip_raise"] + a["corner_pull"] + 0.7 * a["lip_stretch"] + 0.3 * a["jaw_drop"] + 0.6 * a["lips_part"]
    teeth = np.minimum((low - up) * 0.9, 0.115 * min(bared, 1)) * [0, 1]
    pen.band(up, up + teeth, (232, 226, 214))
    pen.line(up, _rgb(who.skin, 0.35), 0.03)


def background(rng: np.random.Generator, size: int) -> Image.Image:
    """A room or street out of focus, RGB, (size, size): clouds of colour."""
    clouds = rng.uniform(50, 205) + rng.normal(0, 22, 3) + rng.normal(0, 22, (5, 5, 1)) + rng.normal(0, 7, (5, 5, 3))
    return Image.fromarray(np.clip(clouds, 0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)


def expose(rng: np.random.Generator, image: Image.Image, style: Style) -> np.ndarray:
    """Light from one side, and the camera's blur, gain, contrast, colour cast and noise; (H, W, 3) uint8."""
    size = image.width
    pixels = np.asarray(image.filter(ImageFilter.BoxBlur(rng.uniform(0, style.blur) * size / 100)), np.float32)
    across, down = np.clip(rng.normal(0, 0.12, 2), -0.3, 0.3)
    axis, third = np.linspace(-1, 1, size, dtype=np.float32), size // 3
    # A camera exposes for the middle of its picture, more or less.
    gain = rng.uniform(0.85, 1.2) * (125 / max(pixels[third:-third, third:-third].mean(), 25.0)) ** 0.4
    light = (gain * (1 + across * axis + down * axis[:, None]))[..., None]
    contrast = (rng.uniform(0.78, 1.15) * rng.normal(1, [0.03, 0.015, 0.04])).astype(np.float32)
    noise = rng.standard_normal((size, size, 1), np.float32) * rng.uniform(1, style.noise)
    return np.clip((pixels * light - 115) * contrast + 115 + noise, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Face:
    """A synthetic face: ``image`` (size, size, 3) uint8 RGB, ``points`` (68, 2) x, y in pixels, ``box`` x0, y0, x1, y1.

    The points are in the order of the 68-point annotation: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
    """

    image: np.ndarray
    points: np.ndarray
    box: tuple[float, float, float, float]
    who: Identity

    @property
    def landmarks(self) -> np.ndarray:
        """Left eye centre, right eye centre, nose tip, left and right mouth corner, (5, 2); left is the smaller x."""
        p = self.points
        return np.stack([p[36:42].mean(0), p[42:48].mean(0), p[30], p[48], p[54]])


def render_face(rng: np.random.Generator, expression: str, intensity: float, size: int, style: Style = Style()) -> Face:
    """One face of a new person who shows ``expression``, a key of EXPRESSIONS, at ``intensity`` in [0, 1]."""
    who, actions = anatomy.sample_identity(rng), anatomy.sample_actions(rng, expression, intensity)
    geometry, pose = anatomy.build_geometry(rng, who, actions), _sample_pose(rng, style, size)
    over = 2 if size >= 96 else 3
    picture = background(rng, size * over)
    _paint(_Pen(picture, pose, over), _rgb(rng.uniform(30, 200, 3)), who, actions, geometry)
    points = np.clip(pose.forward(anatomy.points68(geometry)), 0, size - 1)
    outline = np.clip(pose.forward(geometry.outline[geometry.outline[:, 1] > -0.8]), 0, size - 1)
    box = (*outline.min(0).tolist(), *outline.max(0).tolist())
    return Face(expose(rng, picture.reduce(over), style), points, box, who)
