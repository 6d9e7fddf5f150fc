"""A person and the lines of the face that he or she makes, frontal, in face units.

The origin lies between the eyes, x runs to the right of the picture, y down; the eyes are about 0.8 units apart.
"""

from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

Line = np.ndarray | list[tuple[float, float]]  # points x, y in face units


class Identity(SimpleNamespace):
    """What stays the same in a person, in face units and RGB: the attributes that `sample_identity` sets."""


_TONES = np.array(
    [[250, 222, 202], [240, 200, 172], [222, 176, 142], [196, 146, 110], [154, 106, 76], [116, 78, 57], [88, 60, 46]]
)
_HAIRS = np.array([[28, 22, 20], [52, 36, 26], [92, 62, 40], [134, 92, 54], [196, 160, 104], [142, 68, 36]])
_IRISES = np.array([[58, 36, 22], [84, 54, 30], [110, 84, 48], [74, 104, 72], [86, 120, 150], [110, 124, 132]])


# What has a normal distribution: mean of men and of women, standard deviation, in face units.
_PROPORTIONS = {
    "width": (0.9, 0.9, 0.04), "jaw": (0.7, 0.65, 0.04), "chin": (1.47, 1.41, 0.05), "forehead": (-0.88, -0.88, 0.06),
    "eye_x": (0.40, 0.40, 0.015), "eye_w": (0.185, 0.185, 0.013), "eye_h": (0.088, 0.088, 0.011),
    "eye_tilt": (0.012, 0.012, 0.014), "iris_r": (0.085, 0.085, 0.005), "brow_y": (-0.27, -0.27, 0.016),
    "brow_arch": (0.045, 0.045, 0.015), "brow_thick": (0.066, 0.052, 0.010), "nose_y": (0.50, 0.50, 0.03),
    "nose_w": (0.175, 0.175, 0.02), "mouth_y": (0.92, 0.92, 0.03), "mouth_w": (0.325, 0.325, 0.022),
    "mouth_rest": (0.0, 0.0, 0.012), "lip_up": (0.062, 0.062, 0.012), "lip_low": (0.084, 0.084, 0.014),
}  # fmt: skip


def sample_identity(rng: np.random.Generator) -> Identity:
    """A new person."""
    tone = rng.uniform(0, 1) ** 1.25 * (len(_TONES) - 1)
    skin = np.array([np.interp(tone, range(len(_TONES)), _TONES[:, c]) for c in range(3)])
    skin = skin * rng.normal(1, [0.02, 0.025, 0.04])
    gender = int(rng.integers(2))
    age = int(rng.choice(5, p=[0.06, 0.22, 0.42, 0.22, 0.08]))
    hair = _HAIRS[rng.integers(len(_HAIRS) if tone < 3 else 3)] * rng.uniform(0.75, 1.2)
    if age >= 3 and rng.random() < 0.25 * (age - 1):
        hair = np.array([150.0, 148, 146]) * rng.uniform(0.8, 1.3)

    lips = skin * np.array([0.86, 0.64, 0.64]) + rng.uniform(-10, 10, 3)
    if gender == 1 and rng.random() < 0.45:
        lips = 0.5 * lips + 0.5 * np.array([176, 52, 70]) * rng.uniform(0.8, 1.15)
    styles = ["short", "side", "curly", "bald"] if gender == 0 else ["long", "bob", "bun", "curly"]
    return Identity(
        skin=np.clip(skin, 25, 252),
        gloss=rng.uniform(10, 55),
        hair=np.clip(hair, 12, 225),
        lips=np.clip(lips, 30, 240),
        iris=_IRISES[rng.integers(len(_IRISES) if tone < 3 else 3)] * rng.uniform(0.8, 1.2),
        gender=gender,
        race=0 if tone < 2 else (2 if tone < 4 else 1),
        age=age,
        **{key: row[gender] + row[2] * min(max(rng.standard_normal(), -2.5), 2.5) for key, row in _PROPORTIONS.items()},
        hair_style=styles[rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])],
        beard=float(rng.random() < 0.45) * rng.uniform(0.2, 1) if gender == 0 and age >= 2 else 0.0,
        glasses=bool(rng.random() < 0.12),
        freckles=bool(tone < 2.2 and rng.random() < 0.15),
        wrinkles=[0.0, 0.05, 0.2, 0.55, 0.9][age] * rng.uniform(0.6, 1.2),
    )


def smooth(points: Line, closed: bool, steps: int = 6) -> np.ndarray:
    """Smooth curve through ``points``, (..., N, 2) -> (..., M, 2)."""
    array = np.asarray(points, float)
    return _spline_matrix(array.shape[-2], closed, steps) @ array


@lru_cache
def _spline_matrix(n: int, closed: bool, steps: int) -> np.ndarray:
    t = np.arange(steps)[:, None] / steps
    basis = 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])
    eye = np.eye(n)
    if closed:
        knots = np.vstack([eye[-1:], eye, eye[:2]])
    else:  # the ends go on straight
        knots = np.vstack([2 * eye[0] - eye[1], eye, 2 * eye[-1] - eye[-2]])
    matrix = np.vstack([basis @ knots[k : k + 4] for k in range(len(knots) - 3)])
    return matrix if closed else np.vstack([matrix, eye[-1:]])


SIDES = (-1, 1)
ALONG = np.linspace(-1, 1, 17)  # along an eye or the mouth, from left to right; the corners are -1 and 1


@dataclass(frozen=True)
class Geometry:
    """The face's lines in face units, frontal. Per side: index 0 is the picture's left."""

    outline: np.ndarray
    chin: float
    brows: list[np.ndarray]  # centre lines from the inner to the outer end
    lids: list[tuple[np.ndarray, np.ndarray]]  # upper and lower lid, left to right
    irises: list[np.ndarray]
    nose: np.ndarray  # tip
    nose_w: float
    lips: dict[str, np.ndarray]  # outer_up, inner_up, inner_low, outer_low, left to right
    pull: np.ndarray  # lip corner pull per side


def build_geometry(rng: np.random.Generator, who: Identity, a: dict[str, float]) -> Geometry:
    """The lines of the face of ``who`` when it does the actions ``a``."""
    lopsided = np.clip(1 + np.array(SIDES) * a["asymmetry"], 0, 2)
    gaze = rng.normal(0, [0.022, 0.008])
    pull = a["corner_pull"] * lopsided
    outline, chin = _outline(who, a)
    return Geometry(
        outline=outline,
        chin=chin,
        brows=[_brow(who, a, side, lopsided[i]) for i, side in enumerate(SIDES)],
        lids=[_lids(who, a, side) for side in SIDES],
        irises=[np.array([side * who.eye_x, -0.25 * who.eye_h]) + gaze for side in SIDES],
        nose=np.array([0.0, who.nose_y - 0.06 * a["nose_wrinkle"] - 0.01 * a["lip_raise"]]),
        nose_w=who.nose_w * (1 + 0.18 * a["nose_wrinkle"] + 0.10 * min(a["corner_pull"], 1)),
        lips=_lips(who, a, pull, a["dimple"] * lopsided),
        pull=pull,
    )


def _outline(who: Identity, a: dict[str, float]) -> tuple[np.ndarray, float]:
    chin = who.chin + 0.22 * a["jaw_drop"] - 0.03 * a["chin_raise"]
    w, top, jaw = who.width, who.forehead, who.jaw
    right = [(0, top - 0.38), (0.50 * w, top - 0.28), (0.88 * w, top + 0.12), (w, -0.10), (0.97 * w, 0.38)]
    right += [(jaw + 0.04, 0.92 + 0.04 * a["jaw_drop"]), (0.62 * jaw, chin - 0.17), (0.24, chin - 0.015)]
    left = np.array(right[:0:-1]) * [-1, 1]
    return smooth(np.vstack([right, [(0, chin)], left]), closed=True), chin


def _brow(who: Identity, a: dict[str, float], side: int, lopsided: float) -> np.ndarray:
    s = np.linspace(0, 1, 9)
    outer = a["outer_raise"] * lopsided
    raised = 0.19 * a["inner_raise"] * (1 - s) ** 1.6 + 0.20 * outer * np.exp(-(((s - 0.68) / 0.38) ** 2))
    lowered = a["brow_lower"] * (0.15 * (1 - s) ** 1.3 + 0.03) + 0.06 * a["nose_wrinkle"] * (1 - s)
    y = who.brow_y - who.brow_arch * np.sin(np.pi * s**1.25) + 0.03 * s - raised + lowered
    x = 0.165 - 0.060 * a["brow_lower"] + s * (0.50 + 0.05 * a["brow_lower"]) * (who.eye_x / 0.40)
    return np.stack([side * x, y], 1)


def _lids(who: Identity, a: dict[str, float], side: int) -> tuple[np.ndarray, np.ndarray]:
    up = who.eye_h * (1 + 0.90 * a["lid_raise"] - 0.35 * a["lid_tighten"] - 0.60 * a["lid_droop"])
    up *= 1 - 0.30 * a["nose_wrinkle"] - 0.35 * a["cheek_raise"] * min(a["corner_pull"], 1)
    low = 0.62 * who.eye_h * (1 + 0.35 * a["lid_raise"] - 0.65 * a["lid_tighten"] - 0.60 * a["cheek_raise"])
    low *= 1 - 0.30 * a["nose_wrinkle"]
    t = ALONG * side  # -1 at the inner corner
    corner = -who.eye_tilt * t
    arch = 1 - ALONG**2
    # In sadness the upper lid sinks outwards. It is highest a little inside the middle, the lower one deepest outside.
    sink = 0.05 * a["inner_raise"] * a["lid_droop"] * np.clip(t, 0, 1)
    upper = corner - np.maximum(up, 0.008) * arch**0.62 * (1 - 0.16 * t) + sink * arch
    lower = corner + np.maximum(low, 0.010) * arch**0.8 * (1 + 0.18 * t)
    x = side * who.eye_x + who.eye_w * ALONG
    return np.stack([x, upper], 1), np.stack([x, np.maximum(lower, upper)], 1)


def _lips(who: Identity, a: dict[str, float], pull: np.ndarray, dimple: np.ndarray) -> dict[str, np.ndarray]:
    jaw, smile = a["jaw_drop"], min(a["corner_pull"], 1)
    middle = who.mouth_y + 0.04 * jaw
    spread = 1 + 0.26 * pull + 0.28 * a["lip_stretch"] + 0.06 * a["lip_raise"] - 0.22 * jaw * (1 - smile)
    spread = spread - 0.15 * a["lip_press"] - 0.08 * a["chin_raise"] + 0.06 * dimple
    corner_y = middle - 0.175 * pull + 0.155 * a["corner_depress"] + 0.04 * a["lip_stretch"] + 0.06 * jaw
    corner_y = corner_y - 0.02 * dimple + who.mouth_rest
    near = (ALONG > 0).astype(int)  # which corner a point belongs to
    x, corner_y = ALONG * who.mouth_w * np.maximum(spread, 0.6)[near], corner_y[near]

    gap = 0.11 * a["lips_part"] + 0.45 * jaw - 0.06 * a["lip_press"] - 0.05 * a["chin_raise"] - 0.012
    gap = max(gap, 0.0)
    up = middle - 0.115 * a["lip_raise"] - 0.05 * a["nose_wrinkle"] - 0.2 * gap - 0.05 * a["chin_raise"] + 0.02 * smile
    # A stretched mouth opens as a band, a dropped jaw as an oval.
    near_up, near_low = ALONG**2, np.abs(ALONG) ** (2.0 + 1.5 * a["lip_stretch"])
    inner_up = corner_y * near_up + up * (1 - near_up)
    inner_low = np.maximum(corner_y * near_low + (up + gap) * (1 - near_low), inner_up)
    thin = 1 - 0.60 * min(a["lip_press"], 1) - 0.25 * np.clip(smile, 0, 1) - 0.25 * min(a["lip_stretch"], 1)
    taper = thin * (1 - ALONG**2) ** 0.65
    bow = 1 - 0.30 * np.exp(-((ALONG / 0.16) ** 2)) - 0.25 * np.abs(ALONG)
    lines = {
        "outer_up": inner_up - 1.25 * who.lip_up * taper * bow,
        "inner_up": inner_up,
        "inner_low": inner_low,
        "outer_low": inner_low + who.lip_low * taper * (1 + 0.25 * a["chin_raise"]),
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


# Facial actions, each about 0 (absent) to 1 (full): numbers 1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 24, 25, 26 (or
# 27) and 43 of the Facial Action Coding System.
ACTIONS = (
    "inner_raise", "outer_raise", "brow_lower", "lid_raise", "cheek_raise", "lid_tighten", "nose_wrinkle", "lip_raise",
    "corner_pull", "dimple", "corner_depress", "chin_raise", "lip_stretch", "lip_press", "lips_part", "jaw_drop",
    "lid_droop",
)  # fmt: skip

# expression -> its actions, each with its strength at full intensity and the probability that a face shows it
_PATTERNS = {
    "neutral": "",
    "happiness": "corner_pull 1 1, cheek_raise 0.8 0.85, lips_part 0.9 0.75, jaw_drop 0.25 0.3, lid_tighten 0.3 0.3",
    "sadness": "inner_raise 1 0.9, brow_lower 0.3 0.4, corner_depress 1 0.9, chin_raise 0.7 0.5, lid_droop 0.6 0.75, "
    "lips_part 0.2 0.1",
    "surprise": "inner_raise 0.9 0.95, outer_raise 1 0.95, lid_raise 0.9 0.9, lips_part 0.5 0.9, jaw_drop 1 0.9",
    "fear": "inner_raise 1 0.9, outer_raise 0.4 0.5, brow_lower 0.5 0.8, lid_raise 1 0.95, lid_tighten 0.2 0.3, "
    "lip_stretch 1 0.9, lips_part 0.9 0.85, jaw_drop 0.3 0.4",
    "disgust": "nose_wrinkle 1 0.95, lip_raise 1 0.9, brow_lower 0.45 0.7, lid_tighten 0.6 0.8, "
    "corner_depress 0.4 0.5, chin_raise 0.4 0.25, lips_part 0.5 0.5, cheek_raise 0.3 0.4",
    "anger": "brow_lower 1.1 0.97, lid_raise 0.6 0.7, lid_tighten 0.5 0.6, lip_press 1 0.65, corner_depress 0.3 0.4, "
    "chin_raise 0.3 0.4, nose_wrinkle 0.3 0.2, lips_part 0.7 0.25, jaw_drop 0.35 0.2",
    "contempt": "corner_pull 0.7 0.97, dimple 1 0.95, lid_droop 0.35 0.5, outer_raise 0.45 0.5, chin_raise 0.25 0.3",
}
EXPRESSIONS: dict[str, list[tuple[str, float, float]]] = {
    name: [(action, float(weight), float(chance)) for action, weight, chance in map(str.split, pattern.split(", "))]
    if pattern
    else []
    for name, pattern in _PATTERNS.items()
}


def sample_actions(rng: np.random.Generator, expression: str, intensity: float) -> dict[str, float]:
    """Facial actions of one face: its class's pattern, shown in part, at times blended with another's, and noise.

    ``intensity`` in [0, 1] scales the pattern. "asymmetry" in [-1, 1] is added: positive is stronger on the right.
    """
    actions = dict.fromkeys(ACTIONS, 0.0)
    parts = [(expression, intensity)]
    if rng.random() < 0.15:
        parts.append((str(rng.choice(list(EXPRESSIONS))), intensity * rng.uniform(0.1, 0.35)))
    for name, strength in parts:
        for action, weight, chance in EXPRESSIONS[name]:
            if rng.random() < chance:
                actions[action] = max(actions[action], weight * strength * rng.uniform(0.75, 1.15))
    # Every face moves a little, neutral ones too: muscles at rest, speech, habit.
    for action, noise in zip(ACTIONS, rng.exponential(0.04, len(ACTIONS)), strict=True):
        actions[action] = min(actions[action] + min(noise, 0.2), 1.2)
    one_sided = rng.choice([-1, 1]) * rng.uniform(0.8, 1)
    actions["asymmetry"] = float(one_sided if expression == "contempt" else rng.normal(0, 0.1))
    return actions
