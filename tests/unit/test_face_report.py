import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transfer.faces.report import face_report, montage
from transfer.faces.template import LANDMARK_COLUMNS

POLICIES = {"landmarks": "mtcnn", "no_face": "whole", "broken": "drop"}


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
    return index, faces


def test_counts_by_split_and_class(tables):
    index, faces = tables
    report = face_report(index, faces, index[["sample"]].iloc[[0, 1, 2, 3, 5]], POLICIES)
    expected = {"images": 6, "found": 4, "none": 1, "several": 1, "broken": 1, "dropped": 1, "whole": 1}
    assert report["counts"] == expected
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert train["counts"] == {"images": 3, "found": 2, "none": 1, "several": 1, "broken": 0, "dropped": 0, "whole": 1}
    assert train["classes"]["x"] == {
        "images": 2,
        "found": 1,
        "none": 1,
        "several": 0,
        "broken": 0,
        "dropped": 0,
        "whole": 1,
    }
    assert test["classes"]["y"] == {
        "images": 2,
        "found": 1,
        "none": 0,
        "several": 0,
        "broken": 1,
        "dropped": 1,
        "whole": 0,
    }
    for name, total in expected.items():
        parts = [c[name] for split in report["splits"].values() for c in split["classes"].values()]
        assert sum(parts) == total


def test_distributions(tables):
    index, faces = tables
    report = face_report(index, faces, index[["sample"]], POLICIES)
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
    report = face_report(index, faces, index[["sample"]].iloc[[0, 1, 2, 3, 5]], POLICIES | {"landmarks": "supplied"})
    assert report["counts"]["none"] == 1 and report["counts"]["whole"] == 0
    assert set(report["eye_distance"].values()) == {8.0}


def test_no_face_at_all_gives_null_not_nan(tables):
    index, faces = tables
    faces[LANDMARK_COLUMNS] = np.nan
    faces["probability"] = np.nan
    report = face_report(index, faces, index[["sample"]], POLICIES)
    assert set(report["probability"].values()) == set(report["roll"].values()) == {None}


def test_montage_shows_distinct_faces_and_repeats_itself(tmp_path):
    faces = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 4, 4, 3))
    montage(faces, tmp_path / "a.png")
    montage(faces, tmp_path / "b.png")
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (32, 32, 3)
    tiles = picture[::4, ::4, 0].ravel()
    assert len(set(tiles)) == 64
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_montage_of_few_faces(tmp_path):
    montage(np.full((3, 5, 5, 3), 9, np.uint8), tmp_path / "few.png")
    assert Image.open(tmp_path / "few.png").size == (40, 5)
