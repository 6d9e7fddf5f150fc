"""The quality report of detection and alignment: counts, distributions, and a picture to look at."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from transfer.faces.align import landmarks_of
from transfer.files import atomic

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def face_report(
    index: pd.DataFrame, faces: pd.DataFrame, aligned: pd.DataFrame, policies: dict[str, Any]
) -> dict[str, Any]:
    """Counts per split and class and the distributions of the landmarks, as a JSON-ready dictionary.

    ``index`` and ``faces`` have the same rows; ``aligned`` is the manifest of the rows that were kept; ``policies``
    holds at least "landmarks" ("mtcnn" or "supplied") and is copied into the report. The counts: images, found, none,
    several (more than one face; part of found), broken, dropped (not in ``aligned``), whole (kept without landmarks).
    Quantiles of the probability, of the eye distance (pixels of the original image) and of the roll (degrees,
    clockwise positive); null where no face was found.
    """
    points = landmarks_of(index, faces, policies["landmarks"])
    eyes = points[:, 1] - points[:, 0]
    kept = index["sample"].isin(aligned["sample"]).to_numpy()
    flags = pd.DataFrame(
        {
            "split": index["split"].to_numpy(),
            "class_name": index["class_name"].to_numpy(),
            "images": True,
            **{status: (faces["status"] == status).to_numpy() for status in ("found", "none", "broken")},
            "several": (faces["n_faces"] > 1).to_numpy(),
            "dropped": ~kept,
            "whole": kept & ~np.isfinite(points).all(axis=(1, 2)),
        }
    )
    return {
        "policies": policies,
        "counts": _counts(flags),
        "splits": {
            split: {
                "counts": _counts(part),
                "classes": {name: _counts(rows) for name, rows in part.groupby("class_name", sort=False)},
            }
            for split, part in flags.groupby("split", sort=False)
        },
        "probability": _quantiles(faces["probability"].to_numpy()),
        "eye_distance": _quantiles(np.hypot(eyes[:, 0], eyes[:, 1])),
        "roll": _quantiles(np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))),
    }


def montage(faces: np.ndarray, path: str | Path, n: int = 64, seed: int = 0, columns: int = 8) -> None:
    """Write a PNG of ``n`` randomly drawn faces side by side; ``faces`` is (N, size, size, 3) uint8."""
    n = min(n, len(faces))
    rows = np.sort(np.random.default_rng(seed).choice(len(faces), n, replace=False))
    size = faces.shape[1]
    picture = Image.new("RGB", (columns * size, -(-n // columns) * size))
    for i, row in enumerate(rows):
        picture.paste(Image.fromarray(np.asarray(faces[row])), (i % columns * size, i // columns * size))
    with atomic(path) as part:
        picture.save(part)


def _counts(flags: pd.DataFrame) -> dict[str, int]:
    names = ["images", "found", "none", "several", "broken", "dropped", "whole"]
    return {name: int(flags[name].sum()) for name in names}


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    return {f"q{q * 100:02.0f}": round(float(np.quantile(values, q)), 4) if len(values) else None for q in _QUANTILES}
