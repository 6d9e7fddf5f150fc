"""Five landmarks of the 68 that AffectNet supplies."""

import numpy as np

from transfer.utils.errors import UserError

# The 68 points have the iBUG order: 36-41 and 42-47 are the eyes, 30 is the nose tip, 48 and 54 are the mouth corners,
# each first the one on the left of the image. The rows of this matrix say of which points each landmark is the mean.
_PARTS = np.zeros((5, 68))
_PARTS[0, 36:42] = _PARTS[1, 42:48] = _PARTS[2, 30] = _PARTS[3, 48] = _PARTS[4, 54] = 1
_COUNTS = _PARTS.sum(axis=1, keepdims=True)


def five_of(points: np.ndarray) -> np.ndarray:
    """Eye centres, nose tip and mouth corners (10 numbers x, y, x, ...) of 68 points (136 numbers x, y, x, ...)."""
    return (_PARTS @ points.reshape(68, 2) / _COUNTS).ravel()


def five_landmarks(text: str, where: str) -> np.ndarray:
    """The five landmarks of 68 points "x;y;x;y;..."; NaN for an empty ``text``, UserError for anything else."""
    if not text:
        return np.full(10, np.nan)
    try:
        return five_of(np.array(text.split(";"), dtype=float))
    except ValueError as error:
        raise UserError(f"{where}: facial_landmarks are not 68 points 'x;y;x;y;...'") from error
