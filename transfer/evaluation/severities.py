"""The table of corruptions: what may be done to test faces, how strongly by default, and the range of each strength."""

from typing import NamedTuple


class Scale(NamedTuple):
    """A corruption's severities, growing; a face is untouched at ``least``, and none may be above ``most``."""

    severities: tuple[float, ...]
    least: float
    most: float
    unit: str


_SIDE = Scale((0.125, 0.1875, 0.25, 0.375, 0.5), 0, 1, "side of the square / side of the face")

SEVERITIES: dict[str, Scale] = {
    "occlude_random": _SIDE,
    "occlude_eyes": _SIDE,
    "occlude_nose": _SIDE,
    "occlude_mouth": _SIDE,
    "blur": Scale((0.01, 0.02, 0.03, 0.04, 0.06), 0, 0.25, "standard deviation / side of the face"),
    "noise": Scale((0.05, 0.1, 0.15, 0.2, 0.3), 0, 1, "standard deviation / range of the pixels"),
    "low_resolution": Scale((2, 3, 4, 6, 8), 1, 32, "side of the face / side of the reduced face"),
    "darker": Scale((0.2, 0.4, 0.6, 0.8, 0.9), 0, 1, "part of the light that is taken away"),
    "brighter": Scale((0.25, 0.5, 1, 1.5, 2), 0, 10, "part of the light that is added"),
}
"""Corruption -> its scale. `transfer.evaluation.corruptions` has what each does."""
