"""Where the five landmarks belong in an aligned face."""

from collections.abc import Sequence

import numpy as np

# Left eye, right eye, nose, left mouth corner, right mouth corner, as in MTCNN; "left" is the smaller x in the image.
LANDMARK_COLUMNS = [f"landmark_{i}_{axis}" for i in range(5) for axis in "xy"]
BOX_COLUMNS = ["box_x0", "box_y0", "box_x1", "box_y1"]

_ARCFACE_SIZE = 112
_ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def template(size: int, margin: float = 0.0, points: Sequence[Sequence[float]] | None = None) -> np.ndarray:
    """The five-point template for a square face of ``size`` pixels: ArcFace's, or ``points`` (fractions of the side).

    Returns (5, 2) float64, x and y in pixels (pixel centres at integers). ``margin`` is the fraction of ``size`` that
    is added as context on each side: the face shrinks towards the centre accordingly.
    Source: face.evoLVe, applications/align/align_trans.py (template times size / 112).
    """
    fractions = _ARCFACE_POINTS / _ARCFACE_SIZE if points is None else np.asarray(points, np.float64)
    return size * (margin + (1 - 2 * margin) * fractions)
