"""The quality report of detection and alignment: counts by split and class, and distributions."""

from typing import Any

import numpy as np
import pandas as pd

from transfer.faces.measures import DISAGREEMENT, MEASURES, disagreement, face_measures
from transfer.faces.placement import landmarks_of
from transfer.manifest import digest_test_faces

COUNTS = ["images", "found", "none", "several", "broken", "no_landmarks", "dropped", "whole"]
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def face_report(
    index: pd.DataFrame, faces: pd.DataFrame, aligned: pd.DataFrame, policies: dict[str, Any]
) -> dict[str, Any]:
    """Counts per split and class and the distributions of the measures, as a JSON-ready dictionary.

    ``index`` and ``faces`` have the same rows; ``aligned`` is the manifest of the rows that were kept; ``policies``
    holds landmarks, template, size, margin, no_face and broken, and is copied into the report.

    The counts: images; of MTCNN: found, none, several (more than one face; part of found), broken; no_landmarks (whole
    images without landmarks of the chosen source); dropped (not in ``aligned``); whole (kept without landmarks).
    Quantiles of the ``MEASURES``, null where no face was found. agreement: quantiles of MTCNN's distance from the
    supplied landmarks and the share of faces above 0.2 eye distances; null where none are supplied. evaluation: number
    and digests of the test faces.
    """
    lacking = ~np.isfinite(landmarks_of(index, faces, policies["landmarks"])).all(axis=(1, 2))
    kept = index["sample"].isin(aligned["sample"]).to_numpy()
    broken = (faces["status"] == "broken").to_numpy()
    flags = pd.DataFrame(
        {
            "split": index["split"].to_numpy(),
            "class_name": index["class_name"].to_numpy(),
            "images": True,
            **{status: (faces["status"] == status).to_numpy() for status in ("found", "none")},
            "several": (faces["n_faces"] > 1).to_numpy(),
            "broken": broken,
            "no_landmarks": lacking & ~broken,
            "dropped": ~kept,
            "whole": kept & lacking,
        }
    )
    measures = face_measures(index, faces, policies)
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
        **{name: _quantiles(measures[name].to_numpy()) for name in MEASURES},
        "agreement": _agreement(disagreement(index, faces)),
        "evaluation": digest_test_faces(aligned),
    }


def _agreement(distance: np.ndarray | None) -> dict[str, Any] | None:
    if distance is None:
        return None
    distance = distance[np.isfinite(distance)]
    above = round(float((distance > DISAGREEMENT).mean()), 4) if len(distance) else None
    return {"faces": len(distance), f"above_{DISAGREEMENT}": above, **_quantiles(distance)}


def _counts(flags: pd.DataFrame) -> dict[str, int]:
    return {name: int(flags[name].sum()) for name in COUNTS}


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    return {f"q{q * 100:02.0f}": round(float(np.quantile(values, q)), 4) if len(values) else None for q in _QUANTILES}
