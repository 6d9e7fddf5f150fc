"""Heat maps over faces, as in the paper."""

import matplotlib
import numpy as np

JET = matplotlib.colormaps["jet"]
"""What OpenCV calls COLORMAP_JET: blue is low, red is high."""


def overlay(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A face (S, S, 3) uint8 under a heat map (S, S) from 0 to 1: the mean of its pixels and the map's colours."""
    return np.rint((face + 255 * JET(heat)[..., :3]) / 2).astype(np.uint8)


def stretched(heat: np.ndarray) -> np.ndarray:
    """A map from its lowest to its highest value, as 0 to 1; 0 where it is flat."""
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)
