"""Where each face is taken from its image: the transforms of the templates, and the landmarks that they go by."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from transfer.errors import UserError
from transfer.faces.template import BOX_COLUMNS, LANDMARK_COLUMNS, template


def similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Least-squares similarity transforms (scale, rotation, translation; no reflection) that map ``src`` onto ``dst``.

    ``src`` is (N, K, 2), ``dst`` (K, 2), x and y in pixels; returns (N, 2, 3), to be applied to (x, y, 1). NaN where
    the points of ``src`` coincide. Source: Umeyama, Least-squares estimation of transformation parameters between two
    point patterns (1991); in the plane the optimum is the complex linear regression used here.
    """
    x, y = src[..., 0] + 1j * src[..., 1], dst[:, 0] + 1j * dst[:, 1]
    x_mean, y_mean = x.mean(axis=1, keepdims=True), y.mean()
    centred = x - x_mean
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (centred.conj() * (y - y_mean)).sum(axis=1) / (np.abs(centred) ** 2).sum(axis=1)
    shift = y_mean - factor * x_mean[:, 0]
    rows = [factor.real, -factor.imag, shift.real, factor.imag, factor.real, shift.imag]
    return np.stack(rows, axis=-1).reshape(-1, 2, 3)


def landmarks_of(index: pd.DataFrame, faces: pd.DataFrame, landmarks: str) -> np.ndarray:
    """The (N, 5, 2) landmarks to align by: "mtcnn" from ``faces``, "supplied" from ``index``; NaN where there are none.

    Raises UserError where "supplied" is asked of a dataset that supplies none.
    """
    if landmarks == "supplied":
        require_landmarks(index)
    table = faces if landmarks == "mtcnn" else index
    return table[LANDMARK_COLUMNS].to_numpy(np.float64).reshape(-1, 5, 2)


def require_landmarks(index: pd.DataFrame) -> None:
    """Raise UserError where a dataset's index has no landmarks, as ``landmarks: supplied`` needs them."""
    missing = [name for name in LANDMARK_COLUMNS if name not in index.columns]
    if missing:
        raise UserError(
            f"landmarks: supplied, but the dataset's index has no column {missing[0]}; use landmarks: mtcnn"
        )


def placements(
    points: np.ndarray,
    faces: pd.DataFrame,
    kind: str | Sequence[Sequence[float]],
    size: int,
    margin: float = 0.0,
) -> np.ndarray:
    """Transforms (N, 2, 3) from each image to its aligned face of ``size`` pixels; NaN where it has no face.

    ``points`` are the (N, 5, 2) landmarks and ``kind`` is ``faces.template`` of the parameters: "arcface" or five
    points of one's own (least-squares similarity onto them), "box" (upright: the square around MTCNN's box in
    ``faces``, its side the longer one of the box) or "none" (NaN: the image as it is).
    """
    if isinstance(kind, str) and kind == "none":
        return np.full((len(points), 2, 3), np.nan)
    if isinstance(kind, str) and kind == "box":
        return _squares(faces[BOX_COLUMNS].to_numpy(np.float64), size, margin)
    return similarity(points, template(size, margin, None if isinstance(kind, str) else kind))


def _squares(boxes: np.ndarray, size: int, margin: float) -> np.ndarray:
    """Scaling and translation that put the square around each box into the inner part of the face.

    Edges meet edges: the box is counted between pixel centres at integers, so that its square's edge at -0.5 is the
    image's edge.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    scale = size * (1 - 2 * margin) / (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    shift = (size - 1) / 2 - scale[:, None] * centre
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :, 2] = shift
    matrices[~np.isfinite(scale)] = np.nan
    return matrices
