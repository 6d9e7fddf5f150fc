"""A person and the lines of the face that he or she makes, frontal, in face units.

The origin lies between the eyes, x runs to the right of the picture, y down; the eyes are about 0.8 units apart.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

Line = np.ndarray | list[tuple[float, float]]  # points x, y in face units
Identity = SimpleNamespace  # what stays the same in a person, in face units and RGB: see `sample_identity`

_TONES = np.array([[250, 222, 202], [222, 176, 142], [154, 106, 76], [88, 60, 46]])
_HAIRS = np.array([[28, 22, 20], [92, 62, 40], [196, 160, 104]])

# What has a normal distribution: mean, standard deviation, in face units.
_PROPORTIONS = {
    "width": (0.9, 0.04), "jaw": (0.68, 0.04), "chin": (1.44, 0.05), "forehead": (-0.88, 0.06), "eye_x": (0.40, 0.015),
    "eye_w": (0.185, 0.013), "eye_h": (0.088, 0.011), "brow_y": (-0.27, 0.016), "brow_thick": (0.06, 0.01),
    "nose_y": (0.50, 0.03), "nose_w": (0.175, 0.02), "mouth_y": (0.92, 0.03), "mouth_w": (0.325, 0.022),
    "lip_up": (0.062, 0.012), "lip_low": (0.084, 0.014),
}  # fmt: skip


def sample_identity(rng: np.random.Generator) -> Identity:
    """A new person. ``gender``, ``race`` and ``age`` are RAF-DB's codes: length of the hair, tone of skin, wrinkles."""
    tone, age = rng.uniform(0, 3), int(rng.choice(5, p=[0.06, 0.22, 0.42, 0.22, 0.08]))
    skin = np.array([np.interp(tone, range(4), _TONES[:, c]) for c in range(3)])
    return Identity(
        skin=skin,
        hair=np.array([150, 148, 146]) if age == 4 else _HAIRS[rng.integers(3 if tone < 1.5 else 1)],
        gender=int(rng.integers(2)),
        race=0 if tone < 1 else (2 if tone < 2 else 1),
        age=age,
        **{key: mean + sd * np.clip(rng.standard_normal(), -2.5, 2.5) for key, (mean, sd) in _PROPORTIONS.items()},
    )


def smooth(points: Line, closed: bool = False) -> np.ndarray:
    """Smooth curve through ``points``, (N, 2) -> (5 N, 2)."""
    from scipy.interpolate import CubicSpline

    knots = np.vstack([points, points[:1]]) if closed else np.asarray(points)
    curve = CubicSpline(np.arange(len(knots)), knots, bc_type="periodic" if closed else "natural")
    at: np.ndarray = curve(np.linspace(0, len(knots) - 1, 5 * len(points)))
    return at


SIDES = (-1, 1)
ALONG = np.linspace(-1, 1, 17)  # along an eye or the mouth, from left to right; the corners are -1 and 1


@dataclass(frozen=True)
class Geometry:
    """The face's lines in face units, frontal. Per side: index 0 is the picture's left."""

    outline: np.ndarray
    brows: list[np.ndarray]  # centre lines from the inner to the outer end
    lids: list[tuple[np.ndarray, np.ndarray]]  # upper and lower lid, left to right
    irises: list[np.ndarray]
    nose: np.ndarray  # tip
    nose_w: float
    lips: dict[str, np.ndarray]  # outer_up, inner_up, inner_low, outer_low, left to right


def build_geometry(rng: np.random.Generator, who: Identity, a: dict[str, float]) -> Geometry:
    """The lines of the face of ``who`` when it does the actions ``a``."""
    lopsided = np.clip(1 + np.array(SIDES) * a["asymmetry"], 0, 2)
    gaze = rng.normal(0, [0.022, 0.008])
    return Geometry(
        outline=_outline(who, a),
        brows=[_brow(who, a, side, lopsided[i]) for i, side in enumerate(SIDES)],
        lids=[_lids(who, a, side) for side in SIDES],
        irises=[np.array([side * who.eye_x, -0.25 * who.eye_h]) + gaze for side in SIDES],
        nose=np.array([0.0, who.nose_y - 0.06 * a["nose_wrinkle"]]),
        nose_w=who.nose_w * (1 + 0.18 * a["nose_wrinkle"]),
        lips=_lips(who, a, a["corner_pull"] * lopsided),
    )


def _outline(who: Identity, a: dict[str, float]) -> np.ndarray:
    chin = who.chin + 0.22 * a["jaw_drop"]
    w, top, jaw = who.width, who.forehead, who.jaw
    right = [(0, top - 0.38), (0.50 * w, top - 0.28), (0.88 * w, top + 0.12), (w, -0.10), (0.97 * w, 0.38)]
    right += [(jaw + 0.04, 0.92 + 0.04 * a["jaw_drop"]), (0.62 * jaw, chin - 0.17), (0.24, chin - 0.015)]
    left = np.array(right[:0:-1]) * [-1, 1]
    return smooth(np.vstack([right, [(0, chin)], left]), closed=True)


def _brow(who: Identity, a: dict[str, float], side: int, lopsided: float) -> np.ndarray:
    s = np.linspace(0, 1, 9)
    outer = a["outer_raise"] * lopsided
    raised = 0.19 * a["inner_raise"] * (1 - s) ** 1.6 + 0.20 * outer * np.exp(-(((s - 0.68) / 0.38) ** 2))
    lowered = a["brow_lower"] * (0.15 * (1 - s) ** 1.3 + 0.03) + 0.06 * a["nose_wrinkle"] * (1 - s)
    y = who.brow_y - 0.045 * np.sin(np.pi * s**1.25) + 0.03 * s - raised + lowered
    x = 0.165 - 0.060 * a["brow_lower"] + s * (0.50 + 0.05 * a["brow_lower"]) * (who.eye_x / 0.40)
    return np.stack([side * x, y], 1)


def _lids(who: Identity, a: dict[str, float], side: int) -> tuple[np.ndarray, np.ndarray]:
    squint = (1 - 0.4 * a["nose_wrinkle"]) * (1 - 0.4 * a["cheek_raise"])
    up = who.eye_h * (1 + 0.90 * a["lid_raise"] - 0.60 * a["lid_droop"]) * squint
    low = 0.62 * who.eye_h * (1 + 0.35 * a["lid_raise"]) * squint
    t, arch = ALONG * side, 1 - ALONG**2  # t is -1 at the inner corner
    # In sadness the upper lid sinks outwards. It is highest a little inside the middle, the lower one deepest outside.
    sink = 0.05 * a["inner_raise"] * a["lid_droop"] * np.clip(t, 0, 1)
    upper = sink * arch - max(up, 0.01) * arch**0.62 * (1 - 0.16 * t)
    lower = max(low, 0.01) * arch**0.8 * (1 + 0.18 * t)
    x = side * who.eye_x + who.eye_w * ALONG
    return np.stack([x, upper], 1), np.stack([x, np.maximum(lower, upper)], 1)


def _lips(who: Identity, a: dict[str, float], pull: np.ndarray) -> dict[str, np.ndarray]:
    jaw, press, smile = a["jaw_drop"], a["lip_press"], min(a["corner_pull"], 1)
    middle = who.mouth_y + 0.04 * jaw
    near = (ALONG > 0).astype(int)  # which corner a point belongs to
    spread = 1 + 0.26 * pull + 0.28 * a["lip_stretch"] - 0.22 * jaw * (1 - smile) - 0.15 * press
    x = ALONG * who.mouth_w * spread[near]
    corner_y = (middle - 0.175 * pull + 0.155 * a["corner_depress"] + 0.06 * jaw)[near]
    gap = max(0.11 * a["lips_part"] + 0.45 * jaw - 0.06 * press - 0.012, 0.0)
    up = middle - 0.115 * a["lip_raise"] - 0.05 * a["nose_wrinkle"] - 0.2 * gap + 0.02 * smile
    # A stretched mouth opens as a band, a dropped jaw as an oval.
    near_up, near_low = ALONG**2, np.abs(ALONG) ** (2.0 + 1.5 * a["lip_stretch"])
    inner_up = corner_y * near_up + up * (1 - near_up)
    inner_low = np.maximum(corner_y * near_low + (up + gap) * (1 - near_low), inner_up)
    taper = (1 - 0.6 * min(press, 1) - 0.25 * smile) * (1 - ALONG**2) ** 0.65
    lines = {
        "outer_up": inner_up - 1.1 * who.lip_up * taper,
        "inner_up": inner_up,
        "inner_low": inner_low,
        "outer_low": inner_low + who.lip_low * taper,
    }
    return {name: np.stack([x, y], 1) for name, y in lines.items()}


def points68(g: Geometry) -> np.ndarray:
    """The 68 annotation points in face units."""
    below = g.outline[g.outline[:, 1] > -0.15]
    angle = np.arctan2(*(below - [0, 0.25]).T)  # 0 straight down, negative to the left
    order = np.argsort(angle)
    wanted = np.linspace(angle[order[0]], angle[order[-1]], 17)
    jaw = np.stack([np.interp(wanted, angle[order], below[order, c]) for c in range(2)], 1)
    nose_y = g.nose[1]
    bridge = np.stack([np.zeros(4), np.linspace(-0.02, nose_y, 4)], 1)
    base = np.array([(u * g.nose_w, nose_y + 0.11 + 0.025 * (1 - abs(u))) for u in (-0.9, -0.45, 0, 0.45, 0.9)])
    eyes = []
    for upper, lower in g.lids:
        eyes += [upper[0], upper[5], upper[11], upper[16], lower[11], lower[5]]
    lips = g.lips
    outer = [*lips["outer_up"][[0, 3, 6, 8, 10, 13, 16]], *lips["outer_low"][[13, 10, 8, 6, 3]]]
    inner = [*lips["inner_up"][[1, 5, 8, 11, 15]], *lips["inner_low"][[11, 8, 5]]]
    return np.vstack([jaw, g.brows[0][::-2], g.brows[1][::2], bridge, base, eyes, outer, inner])


# expression -> its facial actions at full intensity, 0 absent to 1 full: numbers 1, 2, 4, 5, 6, 9, 10, 12, 15, 20, 24,
# 25, 26 and 43 of the Facial Action Coding System
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happiness": {"corner_pull": 1, "cheek_raise": 0.8, "lips_part": 0.9},
    "sadness": {"inner_raise": 1, "corner_depress": 1, "lid_droop": 0.6},
    "surprise": {"inner_raise": 0.9, "outer_raise": 1, "lid_raise": 0.9, "jaw_drop": 1},
    "fear": {"inner_raise": 1, "brow_lower": 0.4, "lid_raise": 1, "lip_stretch": 1, "lips_part": 0.9},
    "disgust": {"nose_wrinkle": 1, "lip_raise": 1, "brow_lower": 0.4, "cheek_raise": 0.4, "lips_part": 0.5},
    "anger": {"brow_lower": 1.1, "lid_raise": 0.5, "lip_press": 1, "corner_depress": 0.3},
    "contempt": {"corner_pull": 0.7, "outer_raise": 0.4, "lid_droop": 0.4},
}
ACTIONS = tuple(dict.fromkeys(action for actions in EXPRESSIONS.values() for action in actions))


def sample_actions(rng: np.random.Generator, expression: str, intensity: float) -> dict[str, float]:
    """Facial actions of one face: most of its expression's, times ``intensity`` in [0, 1].

    "asymmetry" in [-1, 1] is added: positive is stronger on the right.
    """
    # Every face moves a little, neutral ones too: muscles at rest, speech, habit.
    actions = dict(zip(ACTIONS, np.minimum(rng.exponential(0.04, len(ACTIONS)), 0.2).tolist(), strict=True))
    for action, weight in EXPRESSIONS[expression].items():
        if rng.random() < 0.95:
            actions[action] = max(actions[action], weight * intensity * rng.uniform(0.8, 1.15))
    actions["asymmetry"] = float(rng.choice([-1, 1]) * 0.9 if expression == "contempt" else rng.normal(0, 0.1))
    return actions
