"""Numbers that say how good a detection and an alignment are, one row per image."""

from typing import Any

import numpy as np
import pandas as pd

from transfer.faces.placement import landmarks_of, placements, similarity
from transfer.faces.template import LANDMARK_COLUMNS, template

MEASURES = ["probability", "eye_distance", "roll", "yaw_proxy", "residual", "scale"]
DISAGREEMENT = 0.2


def face_measures(index: pd.DataFrame, faces: pd.DataFrame, policies: dict[str, Any]) -> pd.DataFrame:
    """The ``MEASURES`` of each image, NaN where they do not apply; rows as in ``index`` and ``faces``.

    ``policies`` holds landmarks, template, size and margin, as in the parameters.

    - probability: MTCNN's, whichever landmarks are used.
    - eye_distance: between the eyes, in pixels of the source image.
    - roll: angle of the line through the eyes, degrees, clockwise positive.
    - yaw_proxy: how far the nose is from the middle of the eyes, along their line, in eye distances; 0 in a frontal
      face, positive where the nose is towards the right side of the picture. No angle: it depends on the face too.
    - residual: root mean square distance of the landmarks from the template after the least-squares fit, in eye
      distances of the template; ArcFace's where the template is a box or none.
    - scale: pixels of the aligned face per pixel of the source, above 1 where it is enlarged.
    """
    kind, size = policies["template"], policies["size"]
    points = landmarks_of(index, faces, policies["landmarks"])
    eyes = points[:, 1] - points[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    nose = points[:, 2] - (points[:, 0] + points[:, 1]) / 2
    target = template(1, 0.0, None if isinstance(kind, str) else kind)
    fit = similarity(points, target)
    error = np.einsum("nij,nkj->nki", fit[:, :, :2], points) + fit[:, None, :, 2] - target
    matrices = placements(points, faces, kind, size, policies["margin"])
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    whole = size / np.minimum(faces["width"], faces["height"]).replace(0, np.nan).to_numpy(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        yaw = (nose * eyes).sum(axis=1) / distance**2
    return pd.DataFrame(
        {
            "probability": faces["probability"].to_numpy(np.float64),
            "eye_distance": distance,
            "roll": np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0])),
            "yaw_proxy": yaw,
            "residual": np.sqrt((error**2).sum(axis=2).mean(axis=1)) / np.hypot(*(target[1] - target[0])),
            "scale": np.where(np.isfinite(scale), scale, whole),
        }
    )


def disagreement(index: pd.DataFrame, faces: pd.DataFrame) -> np.ndarray | None:
    """Mean distance (N,) of MTCNN's five landmarks from the supplied ones, in supplied eye distances.

    NaN where either has none; None where the dataset supplies none at all.
    """
    if not set(LANDMARK_COLUMNS) <= set(index.columns):
        return None
    supplied, found = (landmarks_of(index, faces, source) for source in ("supplied", "mtcnn"))
    eyes = supplied[:, 1] - supplied[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    distance[distance == 0] = np.nan
    return np.hypot(*np.moveaxis(supplied - found, -1, 0)).mean(axis=1) / distance
