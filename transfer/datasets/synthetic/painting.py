"""Paints the frontal head and shoulders: flat colours first, then light and shadow from a height field."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from transfer.datasets.synthetic.anatomy import ALONG, SIDES, Geometry, Identity, Line, smooth

CANVAS = (256, 304)  # width and height of the canvas in pixels
UNIT = 80.0  # canvas pixels per face unit
ORIGIN = np.array([-1.6, -1.72])  # face units at the canvas' upper left corner
CELL = 4  # canvas pixels per cell of the coarse grid of smooth shading

Colour = tuple[int, ...]


def rgb(colour: np.ndarray, gain: float = 1.0) -> Colour:
    """A colour as Pillow takes it."""
    return tuple(min(max(int(value * gain), 0), 255) for value in colour)


class Pen:
    """Draws on an image in face units, and where ``alpha`` is given, the same shapes in 255 on that mask.

    ``scale`` is the image's resolution relative to the canvas, ``corner`` the face units at its upper left corner.
    """

    def __init__(
        self, image: Image.Image, scale: float = 1.0, corner: np.ndarray = ORIGIN, alpha: Image.Image | None = None
    ) -> None:
        self.unit, self.corner = UNIT * scale, corner
        self.images = [ImageDraw.Draw(each) for each in (image, alpha) if each]

    def shape(self, name: str, points: Line, fill: int | Colour | None, **options: Any) -> None:
        """Draw a shape of ImageDraw."""
        pixels = ((np.asarray(points) - self.corner) * self.unit).ravel().tolist()
        for image, colour in zip(self.images, (fill, 255), strict=False):
            getattr(image, name)(pixels, fill=colour, **options)

    def area(self, points: Line, fill: int | Colour) -> None:
        """Fill a polygon."""
        self.shape("polygon", points, fill)

    def band(self, one: np.ndarray, other: np.ndarray, fill: int | Colour) -> None:
        """Fill what lies between two lines of the same direction."""
        self.area(np.vstack([one, other[::-1]]), fill)

    def line(self, points: Line, fill: int | Colour, width: float) -> None:
        """Draw a line, ``width`` in face units."""
        self.shape("line", points, fill, width=max(1, round(width * self.unit)), joint="curve")

    def curve(self, points: Line, fill: int | Colour, width: float, steps: int = 6) -> None:
        """Draw a smooth line through ``points``."""
        self.line(smooth(points, closed=False, steps=steps), fill, width)

    def disc(self, x: float, y: float, rx: float, ry: float, fill: int | Colour) -> None:
        """Fill an ellipse."""
        self.shape("ellipse", [(x - rx, y - ry), (x + rx, y + ry)], fill)


def paint(
    rng: np.random.Generator, who: Identity, a: dict[str, float], g: Geometry, light: np.ndarray, occluded: bool
) -> Image.Image:
    """Head and shoulders of ``who`` doing the actions ``a``, RGBA, of size CANVAS.

    ``light`` is a unit vector towards the light: x to the right of the picture, y down, z towards the viewer.
    """
    cloth = _muted(rng)
    canvas, alpha = Image.new("RGB", CANVAS, rgb(cloth)), Image.new("L", CANVAS, 0)
    solid, pen = Pen(canvas, alpha=alpha), Pen(canvas)

    _hair_behind(solid, who)
    neck = [(-0.55, 0.9), (0.55, 0.9), (0.58, 1.75), (0.9, 2.0), (0.9, 2.4), (-0.9, 2.4), (-0.9, 2.0), (-0.58, 1.75)]
    solid.area(neck, rgb(who.skin, 0.9))
    collar = [(-2.1, 2.12), (-1.2, 1.92), (-0.62, 1.72), (0, 2.05), (0.62, 1.72), (1.2, 1.92), (2.1, 2.12)]
    solid.area(np.vstack([smooth(collar, closed=False), [(2.1, 2.4), (-2.1, 2.4)]]), rgb(cloth))
    if who.hair_style not in ("long", "bob"):
        for side in SIDES:
            solid.disc(side * (who.width + 0.03), 0.22, 0.13, 0.27, rgb(who.skin, 0.9))
    solid.area(g.outline, rgb(who.skin))

    if who.freckles:
        for x, y in zip(rng.normal(0, 0.42, 50), rng.normal(0.38, 0.14, 50), strict=True):
            pen.disc(x, y, 0.012, 0.012, rgb(who.skin * [0.82, 0.72, 0.66]))
    canvas.paste(rgb(who.skin * [0.60, 0.50, 0.47]), mask=_creases(who, a, g))
    x, y = g.nose
    for side in SIDES:
        pen.disc(x + side * 0.44 * g.nose_w, y + 0.098, 0.30 * g.nose_w, 0.026, rgb(who.skin, 0.30))
        wing = [(x + side * u * g.nose_w, y + v) for u, v in ((0.80, 0.10), (1.00, 0.05), (0.92, -0.03))]
        pen.curve(wing, rgb(who.skin, 0.62), 0.03, steps=4)
    _mouth(pen, who, a, g)
    for i in range(2):
        _eye(canvas, pen, who, g, i)
    if who.beard > 0.7:
        _beard(canvas, who, g)
    for brow in g.brows:
        _brow(pen, who, brow)
    _hair_in_front(rng, pen, who)
    # In the shading 128 stands for one.
    lit = np.asarray(canvas, np.uint16) * np.asarray(_shading(who, a, g, light, ambient=rng.uniform(0.35, 0.6))) >> 7
    canvas = Image.fromarray(np.minimum(lit, 255).astype(np.uint8))
    if who.glasses:
        _glasses(rng, canvas, who)
    if occluded:
        _occlude(rng, canvas, alpha, who)
    canvas.putalpha(alpha)
    return canvas


def _muted(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.uniform(30, 200) + rng.normal(0, 28, 3), 10, 240)


_GRID_X, _GRID_Y = (start + (np.arange(n // CELL) + 0.5) * CELL / UNIT for start, n in zip(ORIGIN, CANVAS, strict=True))
_SKULL = 1 - (_GRID_X / 1.12) ** 2 - (((_GRID_Y - 0.15) / 1.75) ** 2)[:, None]
_SKULL = 0.85 * np.sqrt(np.maximum(_SKULL, 0.04))


def _bumps(rows: list[tuple[float, ...]]) -> np.ndarray:
    """Sum of axis-parallel Gaussians (x, y, sigma x, sigma y, height) on the coarse grid."""
    x, y, sx, sy, height = np.array(rows).T[:, :, None]
    along_x = np.exp(-0.5 * ((_GRID_X - x) / sx) ** 2)
    along_y = np.exp(-0.5 * ((_GRID_Y - y) / sy) ** 2) * height
    return along_y.T @ along_x


def _both(x: float, *rest: float) -> list[tuple[float, ...]]:
    return [(-x, *rest), (x, *rest)]


def _shading(who: Identity, a: dict[str, float], g: Geometry, light: np.ndarray, ambient: float) -> Image.Image:
    """What the colours are multiplied with: light on the face's relief, hollows, blush, stubble."""
    mouth_y, low_lip, nose_y = g.lips["inner_up"][8, 1], g.lips["outer_low"][8, 1], g.nose[1]
    cheek = 0.07 + 0.07 * min(a["corner_pull"], 1) + 0.05 * a["cheek_raise"] + 0.03 * a["nose_wrinkle"]
    relief = _SKULL + _bumps(
        [
            (0, 0.12, 0.085, 0.26, 0.13),
            (0, nose_y, 0.11, 0.10, 0.15),
            *_both(0.78 * g.nose_w, nose_y + 0.05, 0.06, 0.07, 0.06),
            *_both(who.eye_x, 0.0, 0.21, 0.13, -0.11),
            *_both(who.eye_x, -0.01, 0.12, 0.08, 0.06),
            *_both(0.36, who.brow_y - 0.02, 0.26, 0.08, 0.05 + 0.03 * a["brow_lower"]),
            *_both(0.55, 0.46 - 0.06 * a["cheek_raise"], 0.20, 0.17, cheek),
            (0, mouth_y - 0.05, 0.24, 0.05, 0.035),
            (0, low_lip - 0.04, 0.19, 0.05, 0.045),
            (0, low_lip + 0.10, 0.20, 0.05, -0.05),
            (0, g.chin - 0.16, 0.20, 0.13, 0.10 + 0.05 * a["chin_raise"]),
        ]
    )
    slope_y, slope_x = np.gradient(relief, CELL / UNIT)
    steep = np.sqrt(1 + slope_x**2 + slope_y**2)
    lit = (light[2] - slope_x * light[0] - slope_y * light[1]) / steep
    hollow = _bumps(
        [
            *_both(0.20, -0.02, 0.07, 0.09, 0.22),
            *_both(who.eye_x, -0.13, 0.17, 0.05, 0.16 + 0.15 * a["brow_lower"]),
            *_both(who.eye_x, 0.15, 0.15, 0.05, 0.06 + 0.12 * who.wrinkles),
            (0, nose_y + 0.14, 0.15, 0.045, 0.30),
            *_both(g.nose_w + 0.03, nose_y + 0.04, 0.03, 0.06, 0.15),
            (0, low_lip + 0.06, 0.17, 0.04, 0.20),
            (0, g.chin + 0.19, 0.65, 0.13, 0.60),
            *_both(0.95, 0.35, 0.10, 0.5, 0.15),
        ]
    )
    blush = _bumps([*_both(0.52, 0.5, 0.18, 0.15, 0.1), (0, nose_y, 0.12, 0.1, 0.09), *_both(1, 0.3, 0.08, 0.2, 0.1)])
    tint = hollow[..., None] + blush[..., None] * np.array([0.15, 1.0, 0.9])
    if who.beard > 0:
        stubble = [(0, 1.3, 0.42, 0.15, 0.6), *_both(0.56, 1.02, 0.13, 0.22, 0.5), (0, mouth_y - 0.16, 0.24, 0.05, 0.5)]
        darker = 1 - np.clip(who.hair / who.skin, 0, 1)
        tint += (_bumps(stubble) * min(who.beard, 0.7) * 1.3)[..., None] * darker
    # Skin shines where the normal halves the angle between light and viewer, dark skin as much as fair skin.
    half = light + [0, 0, 1]
    half /= np.linalg.norm(half)
    shine = (half[2] - slope_x * half[0] - slope_y * half[1]) / steep
    gloss = who.gloss * np.maximum(shine, 0) ** 24
    value = (ambient + (1 - ambient) * np.maximum(lit, 0))[..., None] * np.exp(-tint) + gloss[..., None] / who.skin
    field = Image.fromarray(np.minimum(value * 128, 255).astype(np.uint8))
    return field.resize(CANVAS, Image.Resampling.BILINEAR)


def _creases(who: Identity, a: dict[str, float], g: Geometry) -> Image.Image:
    """Folds and wrinkles as a soft mask: drawn at half size, blurred, enlarged."""
    mask = Image.new("L", (CANVAS[0] // 2, CANVAS[1] // 2), 0)
    pen = Pen(mask, scale=0.5)

    def line(points: Line, strength: float, width: float = 0.04) -> None:
        if strength > 0.04:
            pen.curve(points, int(255 * min(strength, 1)), width, steps=4)

    nose_y, old = g.nose[1], who.wrinkles
    for i, side in enumerate(SIDES):
        cx, cy = g.lips["inner_up"][-i]  # -0 is the left corner, -1 the right one
        fold = 0.10 + 0.30 * old + 0.75 * g.pull[i] + 0.9 * a["nose_wrinkle"] + 0.5 * a["lip_raise"]
        start = (side * (g.nose_w + 0.03), nose_y - 0.02 - 0.06 * a["nose_wrinkle"])
        line([start, (side * (g.nose_w + 0.14), nose_y + 0.14), (cx + side * 0.10, cy - 0.06)], 0.75 * fold, 0.06)
        dimple = 0.35 + 0.6 * a["dimple"] * g.pull[i]
        line([(cx, cy - 0.04), (cx + side * 0.03, cy), (cx + side * 0.015, cy + 0.06)], dimple, 0.06)
        line([(cx, cy), (cx + side * 0.06, cy + 0.12)], 0.8 * a["corner_depress"] + 0.3 * old, 0.06)

        upper, lower = g.lids[i]
        line(upper[2:15:3] - [0, 0.055 - 0.03 * a["lid_raise"] + 0.01 * a["lid_droop"]], 0.55)
        bag = 0.10 + 0.35 * old + 0.5 * max(a["cheek_raise"], a["lid_tighten"])
        line(lower[2:15:3] + [0, 0.06 - 0.015 * a["cheek_raise"]], bag)
        outer = upper[-i]
        for dy in (-0.07, 0.0, 0.07):
            feet = [(outer[0] + side * 0.06, outer[1] + dy * 0.5), (outer[0] + side * 0.19, outer[1] + dy * 1.6)]
            line(feet, 0.65 * a["cheek_raise"] + 0.4 * old - 0.15, 0.02)

        y = g.brows[i][0, 1]
        line([(side * 0.055, y - 0.06), (side * 0.065, y + 0.11)], 1.05 * a["brow_lower"] + 0.15 * old - 0.1)
        for k in range(2):
            bridge = [(side * 0.02, -0.03 + 0.08 * k), (side * 0.12, 0.03 + 0.09 * k)]
            line(bridge, 0.95 * a["nose_wrinkle"] - 0.05)
    forehead = 0.5 * min(a["inner_raise"], 1) + 0.35 * a["outer_raise"] + 0.35 * old - 0.25
    reach = 0.28 + 0.25 * min(a["outer_raise"] + 0.5 * old, 1)
    dip = 0.04 * a["inner_raise"] - 0.03 * a["outer_raise"]
    for k in range(3):
        y = who.brow_y - 0.20 - 0.12 * k - 0.05 * a["inner_raise"]
        line([(-reach, y + dip), (0, y - dip), (reach, y + dip)], forehead)
    dent = g.lips["outer_low"][8, 1] + 0.10
    line([(-0.16, dent + 0.05), (0, dent), (0.16, dent + 0.05)], 0.7 * a["chin_raise"] - 0.05, 0.06)
    return mask.filter(ImageFilter.BoxBlur(0.9)).resize(CANVAS, Image.Resampling.BILINEAR)


def _eye(canvas: Image.Image, pen: Pen, who: Identity, g: Geometry, i: int) -> None:
    upper, lower = g.lids[i]
    # The eyeball is painted on a patch of its own and seen through the opening between the lids.
    corner = ORIGIN + np.floor((np.minimum(upper, lower).min(0) - 0.05 - ORIGIN) * UNIT) / UNIT
    extent = np.ceil((np.maximum(upper, lower).max(0) + 0.05 - corner) * UNIT).astype(int).tolist()
    opening, ball = Image.new("L", extent, 0), Image.new("RGB", extent, (220, 214, 210))
    Pen(opening, corner=corner).band(upper, lower, 255)
    eyeball = Pen(ball, corner=corner)
    x, y = g.irises[i]
    for radius, colour in ((1.0, rgb(who.iris, 0.55)), (0.86, rgb(who.iris)), (0.45, (12, 10, 10))):
        eyeball.disc(x, y, radius * who.iris_r, radius * who.iris_r, colour)
    eyeball.disc(x - 0.026, y - 0.031, 0.02, 0.02, (250, 250, 250))
    eyeball.line(upper + [0, 0.012], rgb(who.skin, 0.35), 0.04)  # the upper lid's shadow
    x, y = ((corner - ORIGIN) * UNIT).round().astype(int).tolist()
    canvas.paste(ball, (x, y), opening)
    inner = upper[-1] if i == 0 else upper[0]
    pen.disc(inner[0], inner[1] + 0.004, 0.018, 0.012, rgb(who.skin * [0.9, 0.62, 0.58]))
    pen.line(upper, rgb(who.skin, 0.12 if who.gender else 0.22), 0.052 if who.gender else 0.042)
    pen.line(lower, rgb(who.skin * [0.72, 0.56, 0.52]), 0.02)


def _brow(pen: Pen, who: Identity, line: np.ndarray) -> None:
    half = 0.5 * who.brow_thick * np.interp(np.linspace(0, 1, len(line)), [0, 0.15, 0.6, 1], [0.75, 1.0, 0.85, 0.15])
    thick = half[:, None] * [0, 1]
    shape = np.vstack([smooth(line - thick, False, 3), smooth(line + thick, False, 3)[::-1]])
    colour = np.minimum(0.78 * who.hair + 0.22 * who.skin, who.skin * 0.72)
    pen.line(shape, rgb(0.55 * colour + 0.45 * who.skin), 0.03)
    pen.area(shape, rgb(colour))


def _mouth(pen: Pen, who: Identity, a: dict[str, float], g: Geometry) -> None:
    up, low = g.lips["inner_up"], g.lips["inner_low"]
    pen.band(g.lips["outer_up"], up, rgb(who.lips, 0.86))
    pen.band(low, g.lips["outer_low"], rgb(who.lips))
    gap, down = low[:, 1] - up[:, 1], np.array([0.0, 1.0])
    if gap.max() > 0.02:
        pen.band(up, up + gap[:, None] * down, (58, 18, 20))
        if a["jaw_drop"] > 0.3:
            tongue = low - np.minimum(gap * 0.4, 0.14)[:, None] * down
            pen.band(tongue[4:-4], low[4:-4], (150, 66, 66))
        bared = a["lip_raise"] + a["corner_pull"] + 0.7 * a["lip_stretch"] + 0.3 * a["jaw_drop"] + 0.6 * a["lips_part"]
        teeth = (1 - np.abs(ALONG) ** 3)[:, None] * down
        pen.band(up, up + np.minimum(gap * 0.9, 0.115 * min(bared, 1))[:, None] * teeth, (232, 226, 214))
        if a["lip_stretch"] > 0.35 and gap.max() > 0.10:
            pen.band(low, low - np.minimum(gap * 0.3, 0.06)[:, None] * teeth, (212, 204, 192))
    else:
        pen.line(up, rgb(who.lips, 0.38), 0.04)
    for corner in (up[:4], up[-4:]):
        pen.line(corner, rgb(who.lips, 0.42), 0.03)


def _hair_behind(solid: Pen, who: Identity) -> None:
    if who.hair_style == "bald":
        return
    top, w = who.forehead - 0.50, who.width
    crown, *half = {
        "curly": [0.30, (w + 0.28, 0.3), (w + 0.36, -0.5), (0.75, top - 0.2)],
        "long": [0.18, (w + 0.22, 2.3), (w + 0.28, 0.6), (w + 0.18, -0.6), (0.6, top - 0.08)],
        "bob": [0.16, (w + 0.12, 1.2), (w + 0.28, 0.7), (w + 0.16, -0.6), (0.6, top - 0.08)],
    }.get(who.hair_style, [0.12, (w + 0.06, 0.0), (w + 0.08, -0.6), (0.6, top - 0.02)])
    if who.hair_style == "bun":
        solid.disc(0, top - 0.12, 0.32, 0.26, rgb(who.hair, 0.9))
    right = np.array(half)
    shape = np.vstack([right * [-1, 1], [(0, top - crown)], right[::-1]])
    solid.area(smooth(shape, closed=True), rgb(who.hair, 0.85))


def _hair_in_front(rng: np.random.Generator, pen: Pen, who: Identity) -> None:
    if who.hair_style == "bald":
        return
    top, w, line = who.forehead - 0.48, who.width, who.forehead
    part, sweep = rng.uniform(-0.5, 0.5), rng.uniform(0.10, 0.30)
    if who.hair_style in ("short", "bun", "curly"):
        fringe = 0.06 if who.hair_style == "curly" else -0.02
        edge = [(-w + 0.01, -0.05), (-w + 0.12, line + 0.28), (-0.47, line + fringe), (0, line + fringe - 0.05)]
        edge += [(0.47, line + fringe), (w - 0.12, line + 0.28), (w - 0.01, -0.05)]
    else:
        low = 0.15 if who.hair_style == "side" else 0.95
        edge = [(-w, low), (-w + 0.12, line + 0.38), (part - 0.35, line + sweep * 0.4), (part, line - 0.12)]
        edge += [(part + 0.35, line + sweep * 0.5), (w - 0.12, line + 0.38), (w, low)]
    cap = [(w + 0.10, -0.35), (0.62, top), (0, top - 0.12), (-0.62, top), (-w - 0.10, -0.35)]
    pen.area(np.vstack([smooth(edge, closed=False), smooth(cap, closed=False)]), rgb(who.hair))
    u = rng.uniform(-1, 1, 24)
    tips = np.stack([u * (w + 0.06), line - 0.12 + 0.55 * np.abs(u) ** 2.2], 1)
    roots = np.broadcast_to([part * 0.6, top - 0.06], tips.shape)
    bends = (roots + tips) / 2 + np.stack([0.10 * u, np.full(24, -0.12)], 1)
    for strand, gain in zip(np.stack([roots, bends, tips], 1), rng.uniform(0.65, 1.5, 24), strict=True):
        pen.curve(strand, rgb(who.hair, gain), 0.02, steps=4)


def _beard(canvas: Image.Image, who: Identity, g: Geometry) -> None:
    """A full beard; the shadow of a shaven one is part of the shading."""
    corners = g.lips["inner_up"][[0, -1]]
    corner_x, corner_y = np.abs(corners[:, 0]).max(), corners[:, 1].mean()
    over = g.lips["outer_up"][6, 1]
    edge = [(0, g.chin + 0.07), (0.32, g.chin + 0.02), (0.66 * who.jaw + 0.12, g.chin - 0.16), (who.jaw + 0.05, 0.95)]
    edge += [(who.width - 0.02, 0.35), (who.width - 0.16, 0.60), (corner_x + 0.14, corner_y), (0.22, over - 0.10)]
    right = smooth([*edge, (0, over - 0.05)], closed=False)
    mask = Image.new("L", canvas.size, 0)
    pen = Pen(mask)
    pen.band(right, right * [-1, 1], int(255 * who.beard))
    pen.band(g.lips["outer_up"] - [0, 0.012], g.lips["outer_low"] + [0, 0.015], 0)
    canvas.paste(rgb(0.9 * who.hair), mask=mask.filter(ImageFilter.BoxBlur(2.5)))


def _glasses(rng: np.random.Generator, canvas: Image.Image, who: Identity) -> None:
    pen = Pen(canvas)
    frame, width, radius = rgb(rng.integers(10, 90, 3)), rng.uniform(0.03, 0.06), rng.uniform(0.08, 0.22)
    for side in SIDES:
        x = side * who.eye_x
        look = {"radius": radius * UNIT, "width": round(width * UNIT), "outline": frame}
        pen.shape("rounded_rectangle", [(x - 0.29, -0.19), (x + 0.29, 0.25)], None, **look)
        pen.line([(x + side * 0.29, -0.02), (side * who.width, -0.06)], frame, width)
    pen.line([(-who.eye_x + 0.28, -0.02), (0, -0.05), (who.eye_x - 0.28, -0.02)], frame, width)


def _occlude(rng: np.random.Generator, canvas: Image.Image, alpha: Image.Image, who: Identity) -> None:
    kind = rng.choice(["hand", "scarf", "strands", "bar", "dark_glasses"], p=[0.28, 0.22, 0.22, 0.2, 0.08])
    solid, pen, side, colour = Pen(canvas, alpha=alpha), Pen(canvas), rng.choice([-1, 1]), _muted(rng)
    if kind == "hand":
        palm = np.array([side * rng.uniform(0.45, 0.8), rng.uniform(0.95, 1.4)])
        lean = rng.uniform(-0.35, 0.35)
        for k in range(4):
            root = palm + [side * 0.16 * (k - 1.5), 0.0]
            length = rng.uniform(0.55, 0.75) - 0.07 * abs(k - 1.5)
            tip = root + length * np.array([math.sin(lean - side * 0.3), -math.cos(lean)])
            for gain, width in ((0.62, 0.17), (0.84, 0.135)):  # the rim, then the finger
                solid.line([root + [0, 0.5], root, tip], rgb(who.skin, gain), width)
                solid.disc(tip[0], tip[1], width / 2, width / 2, rgb(who.skin, gain))
        solid.disc(palm[0], palm[1] + 0.45, 0.38, 0.45, rgb(who.skin, 0.82))
    elif kind == "scarf":
        y = rng.uniform(0.98, 1.25)
        edge = [(-1.2, y - 0.15), (-0.4, y + 0.06), (0.4, y + 0.05), (1.2, y - 0.18), (1.4, 2.2), (-1.4, 2.2)]
        solid.area(smooth(edge, closed=True), rgb(colour))
        for down in (0.1, 0.3, 0.5):
            pen.curve([(-1.2, y + down), (0, y + down + 0.18), (1.2, y + down - 0.04)], rgb(colour, 0.7), 0.04)
    elif kind == "strands":
        x, low = side * rng.uniform(0.25, 0.75), rng.uniform(0.6, 1.1)
        for right in np.arange(7) * 0.03:
            path = [(side * 0.15, -1.25), (x + right, -0.4), (x + side * 0.15 + right, 0.35), (x + side * 0.1, low)]
            pen.curve(path, rgb(who.hair, rng.uniform(0.8, 1.25)), 0.03)
    elif kind == "bar":
        angle, aside = rng.uniform(-0.9, 0.9), rng.choice([-1, 1]) * rng.uniform(0.45, 1.0)
        along = np.array([math.sin(angle), math.cos(angle)])
        centre = np.array([0.0, 0.35]) + aside * np.array([along[1], -along[0]])
        solid.line([centre - 3 * along, centre + 3 * along], rgb(colour), rng.uniform(0.12, 0.27))
    else:
        for s in SIDES:
            pen.disc(s * who.eye_x, 0.02, 0.27, 0.20, (34, 30, 34))
        pen.line([(-who.width, -0.08), (0, -0.06), (who.width, -0.08)], (24, 22, 24), 0.05)
