"""The second look at a pair that its hashes call alike: do the fine structures agree?"""

import numpy as np
from scipy import fft

from transfer.audit.hashes import THUMBNAIL

SIGMA = 2.0
"""Width of the blur that is taken away, in pixels of the thumbnail: light, hair and skin make all faces alike."""
SHIFT = 3
"""How far one thumbnail may be shifted, in pixels."""


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Normalised cross-correlation of pairs of thumbnails, the best over small shifts; 1 for the same picture.

    ``first`` and ``second`` are (N, 32, 32) uint8, row by row the pairs; returns (N,) float32. What a Gaussian blur
    leaves over is compared, under a window that fades towards the edge. 0 where a thumbnail is of one grey.
    """
    spectrum = _spectrum(first) * _spectrum(second).conj()
    correlation = fft.irfft2(spectrum, s=(THUMBNAIL, THUMBNAIL))
    near = np.r_[0 : SHIFT + 1, -SHIFT:0]
    return correlation[:, near[:, None], near].max(axis=(1, 2), initial=0)


def _blur() -> np.ndarray:
    """The matrix of a Gaussian blur along one side; outside, the edge goes on."""
    pixels = np.arange(THUMBNAIL)
    reach = np.arange(-4 * THUMBNAIL, 5 * THUMBNAIL)
    weights = np.exp(-0.5 * ((reach - pixels[:, None]) / SIGMA) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = np.clip(reach, 0, THUMBNAIL - 1)[:, None] == pixels
    return (weights @ inside).astype(np.float32)


_BLUR = _blur()
_FADE = np.sqrt(np.hanning(THUMBNAIL + 2)[1:-1]).astype(np.float32)


def _spectrum(thumbnails: np.ndarray) -> np.ndarray:
    pictures = thumbnails.astype(np.float32)
    fine = (pictures - _BLUR @ pictures @ _BLUR.T) * np.outer(_FADE, _FADE)
    fine -= fine.mean(axis=(1, 2), keepdims=True)
    norm = np.linalg.norm(fine, axis=(1, 2), keepdims=True)
    return fft.rfft2(np.divide(fine, norm, out=np.zeros_like(fine), where=norm > 1))
