"""Measures of detection and alignment, by hand."""

import numpy as np
import pandas as pd
import pytest

from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS, template
from transfer.faces.quality import disagreement, face_measures

POLICIES = {"landmarks": "mtcnn", "template": "arcface", "size": 112, "margin": 0.0}


def tables(points, boxes=None, width=200, height=100):
    points = np.asarray(points, float)
    n = len(points)
    faces = pd.DataFrame(points.reshape(n, 10), columns=LANDMARK_COLUMNS)
    faces[BOX_COLUMNS] = np.full((n, 4), np.nan) if boxes is None else boxes
    faces["probability"], faces["width"], faces["height"] = 0.9, width, height
    return pd.DataFrame({"sample": [f"s{i}" for i in range(n)]}), faces


def turned(points, degrees):
    angle = np.deg2rad(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def test_a_face_like_the_template():
    points = turned(template(112) / 2, 30) + [40, 5]
    row = face_measures(*tables([points]), POLICIES).iloc[0]
    eyes = template(112)[1] - template(112)[0]
    assert row["eye_distance"] == pytest.approx(np.hypot(*eyes) / 2)
    assert row["roll"] == pytest.approx(30 + np.degrees(np.arctan2(eyes[1], eyes[0])))
    assert row["scale"] == pytest.approx(2)
    assert row["residual"] == pytest.approx(0, abs=1e-12)
    assert abs(row["yaw_proxy"]) < 0.02
    assert row["probability"] == 0.9


def test_residual_is_in_eye_distances_and_does_not_depend_on_size_and_place():
    # Corners of a square and its centre as a template of one's own; the face has its centre a tenth of the side away.
    own = [[0.2, 0.2], [0.8, 0.2], [0.5, 0.5], [0.2, 0.8], [0.8, 0.8]]
    face = np.array(own)
    face[2, 0] += 0.06
    measures = face_measures(*tables([face, 300 * turned(face, 40) + 7]), POLICIES | {"template": own})
    # The fit shifts by a fifth of the error (0.1 eye distances) and changes nothing else: its arm is 0.
    expected = 0.1 * np.sqrt((0.8**2 + 4 * 0.2**2) / 5)
    assert measures["residual"].tolist() == pytest.approx([expected, expected], rel=1e-2)
    assert measures["yaw_proxy"].tolist() == pytest.approx([0.1, 0.1])


def test_scale_by_template():
    points = template(112) + [10, -5]
    index, faces = tables([points, np.full((5, 2), np.nan)], boxes=[[10, 10, 59.5, 50], [np.nan] * 4])
    cases = {
        "arcface": [1, 1.12],  # without landmarks the whole image: its short side of 100 becomes 112
        "box": [112 / 49.5, 1.12],
        "none": [1.12, 1.12],
    }
    for kind, expected in cases.items():
        scale = face_measures(index, faces, POLICIES | {"template": kind})["scale"]
        assert scale.tolist() == pytest.approx(expected), kind
    assert face_measures(index, faces, POLICIES | {"margin": 0.25})["scale"][0] == pytest.approx(0.5)


def test_an_image_without_landmarks_has_no_measures_and_no_warnings(recwarn):
    index, faces = tables([np.full((5, 2), np.nan)], width=0, height=0)
    faces["probability"] = np.nan
    for kind in ("arcface", "box", "none"):
        assert face_measures(index, faces, POLICIES | {"template": kind}).isna().all(axis=None)
    assert not recwarn.list


def test_disagreement_is_in_supplied_eye_distances():
    supplied = np.array([[0, 0], [10, 0], [5, 5], [2, 8], [8, 8]], float)
    _, faces = tables([supplied + [3, 4], supplied, supplied, np.full((5, 2), np.nan)])
    index, _ = tables([supplied] * 4)
    assert disagreement(index, faces) is None
    points = np.stack([supplied, supplied * [[1], [1], [1], [1], [1.5]], np.zeros((5, 2)), supplied])
    index[LANDMARK_COLUMNS] = points.reshape(4, 10)
    distance = disagreement(index, faces)
    assert distance[0] == pytest.approx(0.5)
    assert distance[1] == pytest.approx(np.hypot(4, 4) / 5 / 10)  # one of five points is off
    assert np.isnan(distance[2]), "supplied eyes in one point"
    assert np.isnan(distance[3]), "MTCNN found nothing"
