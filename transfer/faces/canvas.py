"""An image as MTCNN gets to see it: scaled, with a border, and the way back to its own pixels."""

from typing import NamedTuple

import numpy as np
from PIL import Image

_MAX_SIDE = 320
_STEP = 16  # canvases grow in steps, so that images of almost equal sizes share a batch


class Canvas(NamedTuple):
    """A scaled image, surrounded by its mean colour."""

    row: int
    """Number of the sample."""
    pixels: np.ndarray
    """(H, W, 3) uint8."""
    offset: np.ndarray
    """x and y of the scaled image inside the canvas."""
    scale: np.ndarray
    """Canvas pixels per image pixel, in x and in y."""
    size: np.ndarray
    """Width and height of the image."""

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """``points`` (..., 2) from the canvas's outer corner, as pixels of the image with centres at integers."""
        return (points - self.offset) / self.scale - 0.5


def place(row: int, image: np.ndarray, min_side: int, border: float) -> Canvas:
    """Put ``image`` (H, W, 3) uint8 onto a canvas.

    Its short side is enlarged to ``min_side`` pixels or reduced to 320; ``border`` is a fraction of it.
    """
    size = np.array([image.shape[1], image.shape[0]])
    scale = np.clip(size.min(), min_side, _MAX_SIDE) / size.min()
    scale = min(scale, 4 * _MAX_SIDE / size.max())  # a ribbon of 10 x 5000 pixels must not become a giant
    scaled = np.maximum(np.rint(size * scale), 1).astype(int)
    pixels = np.asarray(Image.fromarray(image).resize(tuple(scaled.tolist()), Image.Resampling.BICUBIC))
    around = round(border * scaled.min())
    width, height = -(-(scaled + 2 * around) // _STEP) * _STEP
    offset = (np.array([width, height]) - scaled) // 2
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.rint(pixels.mean(axis=(0, 1)))
    canvas[offset[1] : offset[1] + scaled[1], offset[0] : offset[0] + scaled[0]] = pixels
    return Canvas(row, canvas, offset, scaled / size, size)
