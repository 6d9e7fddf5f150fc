"""Draws one face: no photographs, every pixel comes from geometry, light and random numbers.

The face is drawn frontally, shaded from a height field, then turned, rolled and placed in a picture by a 3D pose.
"""

from dataclasses import dataclass

import numpy as np

from transfer.datasets.drawing.actions import EXPRESSIONS, sample_actions
from transfer.datasets.drawing.anatomy import build_geometry, points68, sample_identity
from transfer.datasets.drawing.painting import paint
from transfer.datasets.drawing.picture import Style, sample_pose, take_picture

__all__ = ["EXPRESSIONS", "Face", "Style", "render_face"]


@dataclass(frozen=True)
class Face:
    """A drawn face: ``image`` (size, size, 3) uint8 RGB, ``points`` (68, 2) x, y in pixels, ``box`` x0, y0, x1, y1.

    The points are in the order of the 68-point annotation: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
    ``gender`` (0 or 1), ``race`` (0 to 2) and ``age`` (0 to 4) are codes of what is drawn: hair and beard, skin tone,
    wrinkles and grey hair.
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


def render_face(
    rng: np.random.Generator, expression: str, intensity: float, size: int, style: Style | None = None
) -> Face:
    """Draw one face of a new person who shows ``expression``, a key of EXPRESSIONS, at ``intensity`` in [0, 1].

    Returns a Face with a background; its points and box are in pixels of the image and inside it.
    """
    style = style or Style()
    who = sample_identity(rng)
    actions = sample_actions(rng, expression, intensity)
    geometry = build_geometry(rng, who, actions)
    pose = sample_pose(rng, style, size)
    light = rng.normal([0, -0.3, 1.25], [0.4, 0.3, 0.2])
    head = paint(rng, who, actions, geometry, light / np.linalg.norm(light), bool(rng.random() < style.occlusion))
    image = take_picture(rng, head, pose, size, style)

    points = np.clip(pose.forward(points68(geometry)), 0, size - 1)
    outline = np.clip(pose.forward(geometry.outline[geometry.outline[:, 1] > -0.8]), 0, size - 1)
    return Face(image, points, (*outline.min(0).tolist(), *outline.max(0).tolist()), who.gender, who.race, who.age)
