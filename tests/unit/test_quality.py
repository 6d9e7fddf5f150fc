"""The quality report: its measures by hand, its counts, and its page, which needs nothing else."""

import base64
import io
import json
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transfer.faces import quality
from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS, disagreement, template
from transfer.faces.quality import face_measures, face_report, write_quality_page
from transfer.faces.store import digest_test_faces

POLICIES = {
    "landmarks": "mtcnn",
    "template": "arcface",
    "size": 112,
    "margin": 0.0,
    "no_face": "whole",
    "broken": "drop",
    "frame": None,
    "misplaced": "keep",
}
ABOUT = {"dataset": "faces<1>", "archive": "faces.zip", "code": {"detect": "d1", "align": "a1"}}


@pytest.fixture
def dataset():
    """Forty images; every fifth without a face, the last one broken."""
    n = 40
    rng = np.random.default_rng(0)
    points = template(112) * rng.uniform(0.5, 2, (n, 1, 1)) + rng.normal(0, 2, (n, 5, 2))
    points[::5] = np.nan
    points[-1] = np.nan
    status = np.where(np.isfinite(points[:, 0, 0]), "found", "none").astype(object)
    status[-1] = "broken"
    index = pd.DataFrame(
        {
            "sample": [f"s{i:02}" for i in range(n)],
            "path": [f"{i}.png" for i in range(n)],
            "split": np.where(np.arange(n) % 2, "train", "test"),
            "label": np.arange(n) % 4 // 2,
            "class_name": np.where(np.arange(n) % 4 < 2, "happy & glad", "sad"),
        }
    )
    faces = pd.DataFrame(points.reshape(n, 10), columns=LANDMARK_COLUMNS)
    faces[BOX_COLUMNS] = [10.0, 10, 90, 90]
    faces["status"], faces["n_faces"], faces["error"] = status, (status == "found").astype(int), ""
    faces["probability"] = np.where(status == "found", rng.uniform(0.9, 1, n), np.nan)
    faces["width"] = faces["height"] = 120
    faces["orientation"] = 1
    faces.loc[n - 1, "error"] = "cut <off>"
    return index, faces


def write(folder, dataset, **changes):
    index, faces = dataset
    policies = POLICIES | changes
    kept = faces["status"] == "found" if policies["no_face"] == "drop" else faces["status"] != "broken"
    aligned = index[kept].reset_index(drop=True).assign(sha256="0", source_sha256="1")
    store = np.zeros((len(aligned), 112, 112, 3), np.uint8)
    store[:] = np.flatnonzero(kept)[:, None, None, None]  # a face is as bright as its row in the index
    asked = []

    def originals(rows):
        asked.extend(rows)
        return {row: np.full((60, 120, 3), 200, np.uint8) for row in rows}

    report = write_quality_page(folder, index, faces, aligned, store, policies, ABOUT, originals)
    return report, asked


def shown(folder):
    """What the page shows: title to (sample, text, brightness) of each face."""
    seen = {}
    for title, body in re.findall(r"<h2>(.*?)</h2>(.*?)(?=<h2>|</body>)", (folder / "faces.html").read_text(), re.S):
        tiles = re.findall(r'<figure>.*?base64,(.*?)".*?<figcaption.*?>(.*?)<br>(.*?)</figcaption>', body, re.S)
        seen[unescape(title)] = [
            (sample, text, int(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[0, 0, 0]))
            for data, sample, text in tiles
        ]
    return seen


def test_files(tmp_path, dataset):
    report, asked = write(tmp_path, dataset)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["faces.html", "faces.json"]
    assert json.loads((tmp_path / "faces.json").read_text()) == report
    assert list(report)[:3] == ["dataset", "archive", "code"]
    assert report["counts"]["whole"] == 8 and asked == []
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write(tmp_path, dataset)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_the_page_stands_alone_and_is_html(tmp_path, dataset):
    write(tmp_path, dataset)
    html = (tmp_path / "faces.html").read_text()
    assert set(re.findall(r'src="([^,"]*)', html)) == {"data:image/png;base64", "data:image/jpeg;base64"}
    assert "http" not in html and "<script" not in html
    for text in ("faces&lt;1&gt;", "happy &amp; glad", "cut &lt;off&gt;", "39.png", "faces.zip", "d1", "a1", "arcface"):
        assert text in html, text
    for tag in ("table", "tr", "td", "th", "p", "h2", "html", "body", "figure", "figcaption"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag


def test_random_faces_belong_to_their_names(tmp_path, dataset):
    write(tmp_path, dataset, no_face="drop")
    tiles = shown(tmp_path)["Random faces: 31 of 31"]
    assert len(tiles) == 31
    assert all(int(sample[1:]) == brightness for sample, _, brightness in tiles)


def test_the_worst_come_first(tmp_path, dataset):
    index, faces = dataset
    write(tmp_path, dataset)
    seen = shown(tmp_path)
    lowest = seen["Lowest probability"]
    order = faces["probability"].sort_values().index[: quality.WORST]
    assert [sample for sample, _, _ in lowest] == index.loc[order, "sample"].tolist()
    assert lowest[0][1] == f"{faces['probability'].min():.3f}" and lowest[0][2] == order[0]
    rolls = [float(value) for _, value, _ in seen["Largest roll (degrees)"]]
    assert [abs(roll) for roll in rolls] == sorted((abs(roll) for roll in rolls), reverse=True) and min(rolls) < 0
    assert not any("supplied landmarks (" in title for title in seen)


def test_disagreement_with_supplied_landmarks_is_shown(tmp_path, dataset):
    index, faces = dataset
    supplied = faces[LANDMARK_COLUMNS].copy()
    supplied.loc[7] += 100
    write(tmp_path, (pd.concat([index, supplied], axis=1), faces))
    assert shown(tmp_path)["Farthest from the supplied landmarks (eye distances)"][0][0] == "s07"


@pytest.mark.parametrize(
    ("policy", "text", "brightness"), [("whole", "whole image used", None), ("drop", "dropped", 200)]
)
def test_rejected_images_are_shown_as_they_are_used(tmp_path, dataset, policy, text, brightness):
    _, asked = write(tmp_path, dataset, no_face=policy)
    rows = list(range(0, 39, 5))
    expected = [(f"s{row:02}", text, row if brightness is None else brightness) for row in rows]
    assert shown(tmp_path)["Images without landmarks: 8 of 8"] == expected
    assert asked == ([] if policy == "whole" else rows)


def test_only_the_shown_images_are_asked_for(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(quality, "REJECTED", 3)
    _, asked = write(tmp_path, dataset, no_face="drop")
    assert len(asked) == 3


def test_no_face_at_all(tmp_path, dataset):
    index, faces = dataset
    faces[[*LANDMARK_COLUMNS, "probability"]] = np.nan
    faces["status"] = "none"
    report, _ = write(tmp_path, (index, faces), template="none")
    assert report["counts"]["whole"] == 40
    assert report["scale"]["q50"] == pytest.approx(112 / 120, abs=1e-4)


# Counts and distributions


def manifest(index, rows=(0, 1, 2, 3, 5)):
    """The rows that were aligned."""
    return index.iloc[list(rows)].assign(label=0, sha256="0", source_sha256="1")


@pytest.fixture
def report_tables():
    index = pd.DataFrame(
        {
            "sample": list("abcdef"),
            "path": [f"{name}.png" for name in "abcdef"],
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
    faces["width"], faces["height"], faces["orientation"] = [60, 60, 60, 60, 0, 60], 50, 1
    return index, faces


def counts(**some):
    names = "images found none several broken misplaced no_landmarks dropped whole half_outside"
    return dict.fromkeys(names.split(), 0) | some


def test_counts_by_split_and_class(report_tables):
    index, faces = report_tables
    report = face_report(index, faces, manifest(index), POLICIES | {"template": "none"})
    expected = counts(images=6, found=4, none=1, several=1, broken=1, no_landmarks=1, dropped=1, whole=1)
    assert report["counts"] == expected
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert train["counts"] == counts(images=3, found=2, none=1, several=1, no_landmarks=1, whole=1)
    assert train["classes"]["x"] == counts(images=2, found=1, none=1, no_landmarks=1, whole=1)
    assert test["classes"]["y"] == counts(images=2, found=1, broken=1, dropped=1)
    for name, total in expected.items():
        parts = [c[name] for split in report["splits"].values() for c in split["classes"].values()]
        assert sum(parts) == total


def test_distributions(report_tables):
    index, faces = report_tables
    report = face_report(index, faces, manifest(index), POLICIES)
    assert report["probability"]["q50"] == pytest.approx(0.85)
    assert report["eye_distance"]["q50"] == pytest.approx(15)  # 5, 10, 20, 30
    assert report["roll"]["q99"] == pytest.approx(90, abs=3)  # the second eye straight below the first
    assert report["roll"]["q01"] == pytest.approx(-53.1301, abs=2)
    assert report["policies"] == POLICIES
    json.dumps(report, allow_nan=False)


def test_supplied_landmarks_take_the_place_of_the_detected(report_tables):
    index, faces = report_tables
    supplied = pd.DataFrame(np.tile([0.0, 0, 8, 0, 4, 4, 1, 8, 7, 8], (6, 1)), columns=LANDMARK_COLUMNS)
    index = pd.concat([index, supplied], axis=1)
    report = face_report(index, faces, manifest(index), POLICIES | {"landmarks": "supplied"})
    assert report["counts"]["none"] == 1 and report["counts"]["whole"] == 0
    assert set(report["eye_distance"].values()) == {8.0}


def test_rows_without_supplied_landmarks_are_counted(report_tables):
    index, faces = report_tables
    supplied = pd.DataFrame(np.tile([0.0, 0, 8, 0, 4, 4, 1, 8, 7, 8], (6, 1)), columns=LANDMARK_COLUMNS)
    supplied.loc[[0, 5], "landmark_3_x"] = np.nan
    index = pd.concat([index, supplied], axis=1)
    whole = face_report(index, faces, manifest(index), POLICIES | {"landmarks": "supplied"})["counts"]
    assert (whole["no_landmarks"], whole["whole"], whole["dropped"]) == (2, 2, 1)
    dropped = face_report(index, faces, manifest(index, [1, 2, 3]), POLICIES | {"landmarks": "supplied"})["counts"]
    assert (dropped["no_landmarks"], dropped["whole"], dropped["dropped"]) == (2, 0, 3)


def test_agreement_of_supplied_and_detected_landmarks(report_tables):
    index, faces = report_tables
    assert face_report(index, faces, manifest(index), POLICIES)["agreement"] is None
    supplied = faces[LANDMARK_COLUMNS].copy()
    supplied[LANDMARK_COLUMNS[::2]] += np.array([1.0, 0, 8, 0, 0, 0])[:, None]  # eye distances: 10, -, 20, 30, -, 5
    index = pd.concat([index, supplied], axis=1)
    for source in ("mtcnn", "supplied"):
        agreement = face_report(index, faces, manifest(index), POLICIES | {"landmarks": source})["agreement"]
        assert (agreement["faces"], agreement["above_0.2"]) == (4, 0.25)  # 0.1, 0.4, 0, 0
        assert agreement["q50"] == pytest.approx(0.05) and agreement["q99"] == pytest.approx(0.4, abs=0.02)


def test_the_digest_of_the_test_faces_is_in_the_report(report_tables):
    index, faces = report_tables
    kept = manifest(index)
    assert face_report(index, faces, kept, POLICIES)["evaluation"] == digest_test_faces(kept)
    assert digest_test_faces(kept)["images"] == 2


def test_no_face_gives_null_not_nan(report_tables):
    index, faces = report_tables
    faces[LANDMARK_COLUMNS] = np.nan
    faces["probability"] = np.nan
    report = face_report(index, faces, manifest(index), POLICIES)
    assert set(report["probability"].values()) == set(report["roll"].values()) == {None}


# Measures


def measured(points, boxes=None, width=200, height=100):
    points = np.asarray(points, float)
    n = len(points)
    faces = pd.DataFrame(points.reshape(n, 10), columns=LANDMARK_COLUMNS)
    faces[BOX_COLUMNS] = np.full((n, 4), np.nan) if boxes is None else boxes
    faces["probability"], faces["width"], faces["height"] = 0.9, width, height
    faces["orientation"], faces["status"] = 1, "found"
    return pd.DataFrame({"sample": [f"s{i}" for i in range(n)]}), faces


def turned(points, degrees):
    angle = np.deg2rad(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def test_a_face_like_the_template():
    points = turned(template(112) / 2, 30) + [40, 5]
    row = face_measures(*measured([points]), POLICIES).iloc[0]
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
    measures = face_measures(*measured([face, 300 * turned(face, 40) + 7]), POLICIES | {"template": own})
    # The fit shifts by a fifth of the error (0.1 eye distances) and changes nothing else: its arm is 0.
    expected = 0.1 * np.sqrt((0.8**2 + 4 * 0.2**2) / 5)
    assert measures["residual"].tolist() == pytest.approx([expected, expected], rel=1e-2)
    assert measures["yaw_proxy"].tolist() == pytest.approx([0.1, 0.1])


def test_scale_by_template():
    points = template(112) + [10, -5]
    index, faces = measured([points, np.full((5, 2), np.nan)], boxes=[[10, 10, 59.5, 50], [np.nan] * 4])
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
    index, faces = measured([np.full((5, 2), np.nan)], width=0, height=0)
    faces["probability"] = np.nan
    for kind in ("arcface", "box", "none"):
        assert face_measures(index, faces, POLICIES | {"template": kind}).isna().all(axis=None)
    assert not recwarn.list


def test_disagreement_is_in_supplied_eye_distances():
    supplied = np.array([[0, 0], [10, 0], [5, 5], [2, 8], [8, 8]], float)
    _, faces = measured([supplied + [3, 4], supplied, supplied, np.full((5, 2), np.nan)])
    points = np.stack([supplied, supplied * [[1], [1], [1], [1], [1.5]], np.zeros((5, 2)), supplied])
    distance = disagreement(points, faces)
    assert distance[0] == pytest.approx(0.5)
    assert distance[1] == pytest.approx(np.hypot(4, 4) / 5 / 10)  # one of five points is off
    assert np.isnan(distance[2]), "supplied eyes in one point"
    assert np.isnan(distance[3]), "MTCNN found nothing"
