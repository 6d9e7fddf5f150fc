"""Expressions as vectors of facial actions, in the sense of Ekman and Friesen's Facial Action Coding System (FACS)."""

import numpy as np

# Facial actions, each about 0 (absent) to 1 (full). The numbers are those of the Facial Action Coding System.
ACTIONS = (
    "inner_raise",  # 1
    "outer_raise",  # 2
    "brow_lower",  # 4
    "lid_raise",  # 5
    "cheek_raise",  # 6
    "lid_tighten",  # 7
    "nose_wrinkle",  # 9
    "lip_raise",  # 10
    "corner_pull",  # 12
    "dimple",  # 14
    "corner_depress",  # 15
    "chin_raise",  # 17
    "lip_stretch",  # 20
    "lip_press",  # 24
    "lips_part",  # 25
    "jaw_drop",  # 26 and 27
    "lid_droop",  # 43
)

# expression -> action -> (strength at full intensity, probability that this face shows it)
EXPRESSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "neutral": {},
    "happiness": {
        "corner_pull": (1.0, 1.0),
        "cheek_raise": (0.8, 0.85),
        "lips_part": (0.9, 0.75),
        "jaw_drop": (0.25, 0.3),
        "lid_tighten": (0.3, 0.3),
    },
    "sadness": {
        "inner_raise": (1.0, 0.9),
        "brow_lower": (0.3, 0.4),
        "corner_depress": (1.0, 0.9),
        "chin_raise": (0.7, 0.5),
        "lid_droop": (0.6, 0.75),
        "lips_part": (0.2, 0.1),
    },
    "surprise": {
        "inner_raise": (0.9, 0.95),
        "outer_raise": (1.0, 0.95),
        "lid_raise": (0.9, 0.9),
        "lips_part": (0.5, 0.9),
        "jaw_drop": (1.0, 0.9),
    },
    "fear": {
        "inner_raise": (1.0, 0.9),
        "outer_raise": (0.4, 0.5),
        "brow_lower": (0.5, 0.8),
        "lid_raise": (1.0, 0.95),
        "lid_tighten": (0.2, 0.3),
        "lip_stretch": (1.0, 0.9),
        "lips_part": (0.9, 0.85),
        "jaw_drop": (0.3, 0.4),
    },
    "disgust": {
        "nose_wrinkle": (1.0, 0.95),
        "lip_raise": (1.0, 0.9),
        "brow_lower": (0.45, 0.7),
        "lid_tighten": (0.6, 0.8),
        "corner_depress": (0.4, 0.5),
        "chin_raise": (0.4, 0.25),
        "lips_part": (0.5, 0.5),
        "cheek_raise": (0.3, 0.4),
    },
    "anger": {
        "brow_lower": (1.1, 0.97),
        "lid_raise": (0.6, 0.7),
        "lid_tighten": (0.5, 0.6),
        "lip_press": (1.0, 0.65),
        "corner_depress": (0.3, 0.4),
        "chin_raise": (0.3, 0.4),
        "nose_wrinkle": (0.3, 0.2),
        "lips_part": (0.7, 0.25),
        "jaw_drop": (0.35, 0.2),
    },
    "contempt": {
        "corner_pull": (0.7, 0.97),
        "dimple": (1.0, 0.95),
        "lid_droop": (0.35, 0.5),
        "outer_raise": (0.45, 0.5),
        "chin_raise": (0.25, 0.3),
    },
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
        for action, (weight, probability) in EXPRESSIONS[name].items():
            if rng.random() < probability:
                actions[action] = max(actions[action], weight * strength * rng.uniform(0.75, 1.15))
    # Every face moves a little, neutral ones too: muscles at rest, speech, habit.
    for action, noise in zip(ACTIONS, rng.exponential(0.04, len(ACTIONS)), strict=True):
        actions[action] = min(actions[action] + min(noise, 0.2), 1.2)
    one_sided = rng.choice([-1, 1]) * rng.uniform(0.8, 1)
    actions["asymmetry"] = float(one_sided if expression == "contempt" else rng.normal(0, 0.1))
    return actions
