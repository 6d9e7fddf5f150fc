import json

import numpy as np
import pandas as pd
import pytest

from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS
from transfer.faces.quality import face_report
from transfer.faces.store import digest_test_faces

POLICIES = {
    "landmarks": "mtcnn",
    "template": "arcface",
    "size": 112,
    "margin": 0.0,
    "no_face": "whole",
    "broken": "drop",
}


def manifest(index, rows=(0, 1, 2, 3, 5)):
    """The rows that were aligned."""
    return index.iloc[list(rows)].assign(label=0, sha256="0", source_sha256="1")


@pytest.fixture
def tables():
    index = pd.DataFrame(
        {
            "sample": list("abcdef"),
            "split": ["train", "train", "train", "test", "test", "test"],
            "class_name": ["x", "x", "y", "x", "y", "y"],
        }
    )
    points = np.full((6, 5, 2), np.nan)
    for row, eye in ((0, (10, 0)), (2, (0, 20)), (3, (30, 0)), (5, (3, -4))):
        points[row] = 1.0
        points[row, 1] = points[row, 0] + eye
    faces = pd.DataFrame(points.reshape(6, 10), columns=LANDMARK_COLUMNS)
    faces["status"] = ["found", "none", "found", "found", "broken", "found"]
    faces["n_faces"] = [1, 0, 3, 1, 0, 1]
    faces["probability"] = [0.9, np.nan, 0.8, 1.0, np.nan, 0.7]
    faces[BOX_COLUMNS] = np.nan
    faces["width"], faces["height"] = [60, 60, 60, 60, 0, 60], 50
    return index, faces


def counts(**some):
    names = ["images", "found", "none", "several", "broken", "no_landmarks", "dropped", "whole"]
    return dict.fromkeys(names, 0) | some


def test_counts_by_split_and_class(tables):
    index, faces = tables
    report = face_report(index, faces, manifest(index), POLICIES)
    expected = counts(images=6, found=4, none=1, several=1, broken=1, no_landmarks=1, dropped=1, whole=1)
    assert report["counts"] == expected
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert train["counts"] == counts(images=3, found=2, none=1, several=1, no_landmarks=1, whole=1)
    assert train["classes"]["x"] == counts(images=2, found=1, none=1, no_landmarks=1, whole=1)
    assert test["classes"]["y"] == counts(images=2, found=1, broken=1, dropped=1)
    for name, total in expected.items():
        parts = [c[name] for split in report["splits"].values() for c in split["classes"].values()]
        assert sum(parts) == total


def test_distributions(tables):
    index, faces = tables
    report = face_report(index, faces, manifest(index), POLICIES)
    assert report["probability"]["q50"] == pytest.approx(0.85)
    assert report["eye_distance"]["q50"] == pytest.approx(15)  # 5, 10, 20, 30
    assert report["roll"]["q99"] == pytest.approx(90, abs=3)  # the second eye straight below the first
    assert report["roll"]["q01"] == pytest.approx(-53.1301, abs=2)
    assert report["policies"] == POLICIES
    json.dumps(report, allow_nan=False)


def test_supplied_landmarks_take_the_place_of_the_detected(tables):
    index, faces = tables
    supplied = pd.DataFrame(np.tile([0.0, 0, 8, 0, 4, 4, 1, 8, 7, 8], (6, 1)), columns=LANDMARK_COLUMNS)
    index = pd.concat([index, supplied], axis=1)
    report = face_report(index, faces, manifest(index), POLICIES | {"landmarks": "supplied"})
    assert report["counts"]["none"] == 1 and report["counts"]["whole"] == 0
    assert set(report["eye_distance"].values()) == {8.0}


def test_rows_without_supplied_landmarks_are_counted(tables):
    index, faces = tables
    supplied = pd.DataFrame(np.tile([0.0, 0, 8, 0, 4, 4, 1, 8, 7, 8], (6, 1)), columns=LANDMARK_COLUMNS)
    supplied.loc[[0, 5], "landmark_3_x"] = np.nan
    index = pd.concat([index, supplied], axis=1)
    whole = face_report(index, faces, manifest(index), POLICIES | {"landmarks": "supplied"})["counts"]
    assert (whole["no_landmarks"], whole["whole"], whole["dropped"]) == (2, 2, 1)
    dropped = face_report(index, faces, manifest(index, [1, 2, 3]), POLICIES | {"landmarks": "supplied"})["counts"]
    assert (dropped["no_landmarks"], dropped["whole"], dropped["dropped"]) == (2, 0, 3)


def test_agreement_of_supplied_and_detected_landmarks(tables):
    index, faces = tables
    assert face_report(index, faces, manifest(index), POLICIES)["agreement"] is None
    supplied = faces[LANDMARK_COLUMNS].copy()
    supplied[LANDMARK_COLUMNS[::2]] += np.array([1.0, 0, 8, 0, 0, 0])[:, None]  # eye distances: 10, -, 20, 30, -, 5
    index = pd.concat([index, supplied], axis=1)
    for source in ("mtcnn", "supplied"):
        agreement = face_report(index, faces, manifest(index), POLICIES | {"landmarks": source})["agreement"]
        assert (agreement["faces"], agreement["above_0.2"]) == (4, 0.25)  # 0.1, 0.4, 0, 0
        assert agreement["q50"] == pytest.approx(0.05) and agreement["q99"] == pytest.approx(0.4, abs=0.02)


def test_the_digest_of_the_test_faces_is_in_the_report(tables):
    index, faces = tables
    kept = manifest(index)
    assert face_report(index, faces, kept, POLICIES)["evaluation"] == digest_test_faces(kept)
    assert digest_test_faces(kept)["images"] == 2


def test_no_face_at_all_gives_null_not_nan(tables):
    index, faces = tables
    faces[LANDMARK_COLUMNS] = np.nan
    faces["probability"] = np.nan
    report = face_report(index, faces, manifest(index), POLICIES)
    assert set(report["probability"].values()) == set(report["roll"].values()) == {None}
